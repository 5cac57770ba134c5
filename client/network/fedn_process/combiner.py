"""FEDn's combiner, corrected: what a client sends cannot write files, stop a round or replace the global model.

Sessions of fedn-partial are recognised by ``fallback.AGGREGATOR_KWARGS``; others run as FEDn runs them.
"""

from __future__ import annotations

import functools
import inspect
import io
import json
import os
import re
import tempfile
import threading
import time
from pathlib import Path

from fedn_partial.runtime.atomic import write_text
from fedn_partial.seed_model import fallback

MODEL_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
HOOKS_PATIENCE = 30  # seconds that a round waits for a hooks process that is being restarted


def correct() -> None:
    """Correct FEDn's combiner, before it is started."""
    _check_model_ids()
    _take_updates()
    _keep_rounds_going()
    _send_validations_to_the_clients_of_the_round()


def _check_model_ids() -> None:
    """Make FEDn's model storage refuse ids that are paths: FEDn joins them to its folder as they come."""
    from fedn.network.combiner import modelservice
    from fedn.network.storage.models.tempmodelstorage import TempModelStorage

    class CheckedStorage(TempModelStorage):
        def get_ptr(self, model_id):
            return super().get_ptr(_checked(model_id))

        def set_model_metadata(self, model_id, model_metadata):
            super().set_model_metadata(_checked(model_id), model_metadata)

        def delete(self, model_id):
            """Delete a model that is there, or not, or half there."""
            self.models.pop(model_id, None)
            self.models_metadata.pop(model_id, None)
            try:
                os.remove(os.path.join(self.default_dir, _checked(model_id)))
            except (OSError, ValueError):
                return False
            return True

    modelservice.TempModelStorage = CheckedStorage


def _checked(model_id) -> str:
    if not MODEL_ID.fullmatch(str(model_id)):
        raise ValueError(f"invalid model id {str(model_id)[:200]!r}: letters, digits, '-', '_' and '.' are allowed")
    return str(model_id)


class UploadedFile(io.FileIO):
    """An uploaded model, read from disk piece by piece; FEDn would hold all of it in memory."""

    def getbuffer(self) -> bytes:
        self.seek(0)
        return self.readall()


def _take_updates() -> None:
    """Correct how FEDn's combiner takes updates.

    An update whose model was never uploaded is handed on as an empty one, which the hooks skip: in FEDn it fails the
    aggregation of all. The wait for a round's updates ends when the clients that were asked have answered, not when
    as many messages have arrived.
    """
    from fedn.common.log_config import logger
    from fedn.network.combiner.updatehandler import UpdateHandler

    def load(handler, model_id, retry=3):
        storage = handler.modelservice.temp_model_storage
        path = os.path.join(storage.default_dir, str(model_id))
        if storage.models_metadata.get(model_id) is None or not os.path.isfile(path):
            return io.BytesIO()
        return UploadedFile(path)

    is_valid = UpdateHandler._validate_model_update

    def validate(handler, update):
        if update.sender.client_id == "global_model":  # the name under which the hooks take the global model
            logger.warning("fedn-partial: refused an update of a client with the reserved id 'global_model'")
            return False
        valid = is_valid(handler, update)
        if valid and _round_id(update) == getattr(handler, "round_id", None):
            with handler.lock:
                handler.answered.add(update.sender.client_id)
        return valid

    wait = UpdateHandler.waitforit

    def waitforit(handler, config, buffer_size=100, polling_interval=0.1):
        if not fallback.is_ours(config):
            return wait(handler, config, buffer_size, polling_interval)
        deadline = time.monotonic() + float(config["round_timeout"])
        while time.monotonic() < deadline:
            with handler.lock:
                if len(handler.answered & handler.asked) >= buffer_size:
                    return None
            time.sleep(polling_interval)
        return None

    UpdateHandler.lock = threading.Lock()
    UpdateHandler.asked = UpdateHandler.answered = frozenset()
    UpdateHandler.load_model_update_bytesIO = load
    UpdateHandler._validate_model_update = validate
    UpdateHandler.waitforit = waitforit


def _round_id(update) -> str | None:
    """Return the id of the round that a client answers, as FEDn's client sends it back, or None."""
    try:
        return json.loads(json.loads(update.meta)["config"])["round_id"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _keep_rounds_going() -> None:
    """Correct FEDn's round handler.

    A round that raises is reported as failed, where in FEDn the thread that runs all rounds ends. Each round has the
    server functions of its own session, or FEDn's own, where FEDn keeps those of the session before. A hooks process
    that was restarted gets the server functions again before it merges.
    """
    from fedn.common.log_config import logger
    from fedn.network.combiner.combiner import Combiner
    from fedn.network.combiner.hooks.serverfunctionsbase import ServerFunctions
    from fedn.network.combiner.roundhandler import RoundHandler

    execute, run, training, push = (
        RoundHandler.execute_training_round,
        RoundHandler.run,
        RoundHandler._training_round,
        RoundHandler.push_round_config,
    )

    @functools.wraps(push)
    def push_round_config(handler, config):
        if config.get("task") == "training":
            write_text(_marker(), json.dumps({"config": dict(config)}))
        return push(handler, config)

    @functools.wraps(execute)
    def execute_training_round(handler, config):
        text = config.get("server_functions")
        has_functions = text not in (None, "None")
        handler.server_functions = text if has_functions else inspect.getsource(ServerFunctions)
        handler.set_aggregator(config["aggregator"])
        try:
            if has_functions:
                _wait_for_hooks(handler.hook_interface)
            return execute(handler, config)
        except Exception:
            logger.exception(f"fedn-partial: round {config['round_id']} failed")
            return _failed_report(config)

    @functools.wraps(training)
    def training_round(handler, config, clients, provided_functions):
        updates, ours = handler.update_handler, fallback.is_ours(config)
        with updates.lock:
            updates.round_id, updates.asked, updates.answered = config.get("round_id"), frozenset(clients), set()
        handler.validators = list(clients) if ours else None
        if ours:
            handler.aggregator = fallback.NoFallback(updates)
            handler.hook_interface.before_aggregation = functools.partial(_renew_functions, handler)
        else:
            handler.hook_interface.before_aggregation = lambda: None
        return training(handler, config, clients, provided_functions)

    @functools.wraps(run)
    def run_always(handler, *args, **kwargs):
        while True:
            try:
                return run(handler, *args, **kwargs)
            except Exception:
                logger.exception("fedn-partial: the combiner's round loop had an error and is started again")
                time.sleep(1)

    run_combiner = Combiner.run

    @functools.wraps(run_combiner)
    def report_and_run(combiner):
        _report_interrupted_round(combiner.db, combiner.id)
        run_combiner(combiner)

    RoundHandler.push_round_config = push_round_config
    RoundHandler.execute_training_round = execute_training_round
    RoundHandler._training_round = training_round
    RoundHandler.run = run_always
    Combiner.run = report_and_run
    _prepare_aggregation()


def _prepare_aggregation() -> None:
    from fedn.network.combiner.hooks.hook_client import CombinerHookInterface

    CombinerHookInterface.before_aggregation = staticmethod(lambda: None)
    aggregate = CombinerHookInterface.aggregate

    @functools.wraps(aggregate)
    def prepared(interface, *args, **kwargs):
        interface.before_aggregation()
        return aggregate(interface, *args, **kwargs)

    CombinerHookInterface.aggregate = prepared


def _renew_functions(handler) -> None:
    _wait_for_hooks(handler.hook_interface)
    handler.hook_interface.provided_functions(handler.server_functions)  # does nothing if the process has them


def _wait_for_hooks(interface) -> None:
    import grpc

    grpc.channel_ready_future(interface.channel).result(timeout=HOOKS_PATIENCE)


def _send_validations_to_the_clients_of_the_round() -> None:
    """Ask the clients that trained in a round to validate its model; FEDn asks all that are connected.

    FEDn 0.33 hands over the clients as another argument, so that its own choice has no effect either.
    """
    import fedn.network.grpc.fedn_pb2 as messages
    from fedn.network.combiner.combiner import Combiner
    from fedn.network.combiner.roundhandler import RoundHandler

    assign = RoundHandler._assign_round_clients

    def assign_round_clients(handler, n, type="trainers", selected_clients=None):
        if type == "validators":
            selected_clients = selected_clients or getattr(handler, "validators", None)
        return assign(handler, n, type, selected_clients)

    def request_model_validation(combiner, session_id, model_id, clients=()):
        combiner._send_request_type(messages.StatusType.MODEL_VALIDATION, session_id, model_id, None, list(clients))

    RoundHandler._assign_round_clients = assign_round_clients
    Combiner.request_model_validation = request_model_validation


def _marker() -> Path:
    """Return the path of the note about the round that the controller asked for last."""
    return Path(tempfile.gettempdir()) / "combiner-round.json"


def _failed_report(config: dict) -> dict:
    """Return what the controller reads as a round without a model."""
    aggregation = dict.fromkeys(("nr_aggregated_models", "time_model_aggregation", "time_model_load"))
    data = {"aggregation_time": aggregation, "timeout": float(config["round_timeout"])}
    return {"config": config, "round_id": config["round_id"], "data": data}


def _report_interrupted_round(db, name: str) -> None:
    """Report the round as failed in which this combiner was killed: the controller would wait for it for ever."""
    from fedn.common.log_config import logger

    try:
        config = json.loads(_marker().read_text())["config"]
    except (OSError, ValueError, LookupError):
        return
    round_ = db.round_store.get(config["round_id"])
    if round_ is None or len(round_.combiners) or round_.status != "Pending":
        return
    round_.combiners.append({**_failed_report(config), "time_exec_training": 0.0, "status": "Failed", "name": name})
    db.round_store.update(round_)
    logger.warning(f"fedn-partial: the combiner was restarted in round {config['round_id']}, which failed")
