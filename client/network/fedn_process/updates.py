"""Corrections of FEDn's update handler.

An update whose model was not uploaded is passed on as an empty one, which the hooks skip; in FEDn it fails the
aggregation of all updates. The wait for a round's updates ends when the requested clients have answered, not when as
many messages have arrived, or when the controller requests another round, as it does after a terminated session.
"""

from __future__ import annotations

import io
import json
import os
import threading

from fedn.common.log_config import logger
from fedn.network.combiner.updatehandler import UpdateHandler

from fedn_partial.client.fleet.waiting import wait_until
from fedn_partial.client.network.fedn_process.model_storage import UploadedFile
from fedn_partial.seed_model import fallback

CLIENT_MESSAGES = 3  # queued for each requested client of a round
OTHER_MESSAGES = 50  # queued in a round for all other clients, and for other rounds
MAX_DEPTH = 20  # of nested metadata


def correct() -> None:
    """Patch the update handler of FEDn's combiner."""
    UpdateHandler.lock = threading.Lock()
    UpdateHandler.requested = UpdateHandler.answered = frozenset()
    UpdateHandler.message_counts = {}
    UpdateHandler.is_abandoned = staticmethod(lambda: False)
    UpdateHandler.load_model_update_bytesIO = _load
    UpdateHandler._validate_model_update = _validate
    UpdateHandler.waitforit = _wait


def begin_round(handler, round_id, clients: list, is_abandoned) -> None:
    """Reset the handler for a round in which `clients` are requested to train.

    `is_abandoned` : function that returns whether the controller no longer waits for this round.
    """
    handler.is_abandoned = is_abandoned
    with handler.lock:
        handler.round_id, handler.requested, handler.answered = round_id, frozenset(clients), set()
        handler.message_counts = {}


def _load(handler, model_id, retry=3):
    storage = handler.modelservice.temp_model_storage
    path = os.path.join(storage.default_dir, str(model_id))
    if storage.models_metadata.get(model_id) is None or not os.path.isfile(path):
        return io.BytesIO()
    return UploadedFile(path)


_fedn_validate = UpdateHandler._validate_model_update


def _validate(handler, update) -> bool:
    """Return whether to queue `update`; count the messages of each client."""
    client_id = update.sender.client_id
    if client_id == "global_model":  # the hooks' id of the global model
        logger.warning("fedn-partial: refused an update of a client with the reserved id 'global_model'")
        return False
    if _depth(update.meta) > MAX_DEPTH:  # reading such metadata later would end the round
        logger.warning("fedn-partial: refused an update whose metadata are nested too deep, or damaged")
        return False
    if not _fedn_validate(handler, update):
        return False
    is_current = _round_id(update) == getattr(handler, "round_id", None)
    with handler.lock:
        sender = client_id if is_current and client_id in handler.requested else None
        handler.message_counts[sender] = handler.message_counts.get(sender, 0) + 1
        if handler.message_counts[sender] > (CLIENT_MESSAGES if sender else OTHER_MESSAGES):
            return False
        if is_current:
            handler.answered.add(client_id)
    return True


_fedn_wait = UpdateHandler.waitforit


def _wait(handler, config, buffer_size=100, polling_interval=0.1):
    if not fallback.is_ours(config):
        return _fedn_wait(handler, config, buffer_size, polling_interval)

    def is_over() -> bool:
        if handler.is_abandoned():
            logger.warning(f"fedn-partial: round {handler.round_id} ends early: the controller requests another round")
            return True
        with handler.lock:
            return len(handler.answered & handler.requested) >= buffer_size

    wait_until(is_over, float(config["round_timeout"]), polling_interval)
    return None


def _depth(text: str) -> int:
    """Return the nesting depth of the JSON `text`, or MAX_DEPTH + 1 if it is deeper or invalid."""
    try:
        level, depth = [json.loads(text)], 0
        while level and depth <= MAX_DEPTH:
            containers = [value for value in level if isinstance(value, (dict, list))]
            level = [item for value in containers for item in (value.values() if isinstance(value, dict) else value)]
            depth += 1
        return depth
    except (ValueError, RecursionError):
        return MAX_DEPTH + 1


def _round_id(update) -> str | None:
    """Return the id of the round that an update answers, as FEDn's client sends it back, or None."""
    try:
        return json.loads(json.loads(update.meta)["config"])["round_id"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
