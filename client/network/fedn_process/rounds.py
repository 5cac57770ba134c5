"""Corrections of FEDn's round handler.

- A round that raises is reported as failed; in FEDn it ends the thread that runs all rounds.
- Each round has the server functions of its own session, or FEDn's own; FEDn keeps those of the session before.
- A restarted hooks process gets the server functions again before it merges.
- Only the clients that trained in a round validate its model; FEDn sends the request to all connected clients.
"""

from __future__ import annotations

import functools
import inspect
import json
import tempfile
from pathlib import Path

import fedn.network.grpc.fedn_pb2 as messages
import grpc
import tenacity
from fedn.common.log_config import logger
from fedn.network.combiner.combiner import Combiner
from fedn.network.combiner.hooks.hook_client import CombinerHookInterface
from fedn.network.combiner.hooks.serverfunctionsbase import ServerFunctions
from fedn.network.combiner.roundhandler import RoundHandler

from fedn_partial.client.network.fedn_process import updates
from fedn_partial.runtime.atomic import write_text
from fedn_partial.seed_model import fallback

HOOKS_TIMEOUT = 30  # seconds that a round waits for a restarting hooks process


def correct() -> None:
    """Patch the round handler of FEDn's combiner."""
    RoundHandler.push_round_config = _push_round_config
    RoundHandler.execute_training_round = _execute_training_round
    RoundHandler._training_round = _training_round
    RoundHandler._assign_round_clients = _assign_round_clients
    RoundHandler.run = tenacity.retry(wait=tenacity.wait_fixed(1), before_sleep=_log_restart)(RoundHandler.run)
    Combiner.run = _run_combiner
    Combiner.request_model_validation = _request_model_validation
    CombinerHookInterface.before_aggregation = staticmethod(lambda: None)
    CombinerHookInterface.aggregate = _aggregate


_fedn_push_round_config = RoundHandler.push_round_config
_fedn_execute_training_round = RoundHandler.execute_training_round
_fedn_training_round = RoundHandler._training_round
_fedn_assign_round_clients = RoundHandler._assign_round_clients
_fedn_run_combiner = Combiner.run
_fedn_aggregate = CombinerHookInterface.aggregate


@functools.wraps(_fedn_push_round_config)
def _push_round_config(handler, config):
    if config.get("task") == "training":
        write_text(_marker(), json.dumps({"config": dict(config)}))
    return _fedn_push_round_config(handler, config)


@functools.wraps(_fedn_execute_training_round)
def _execute_training_round(handler, config):
    source = config.get("server_functions")
    has_functions = source not in (None, "None")
    handler.server_functions = source if has_functions else inspect.getsource(ServerFunctions)
    handler.set_aggregator(config["aggregator"])
    try:
        if has_functions:
            _wait_for_hooks(handler.hook_interface)
        return _fedn_execute_training_round(handler, config)
    except Exception:
        logger.exception(f"fedn-partial: round {config['round_id']} failed")
        return _failed_report(config)


@functools.wraps(_fedn_training_round)
def _training_round(handler, config, clients, provided_functions):
    updates.begin_round(
        handler.update_handler, config.get("round_id"), clients, lambda: not handler.round_configs.empty()
    )
    if fallback.is_ours(config):
        handler.validators = list(clients)
        handler.aggregator = fallback.NoFallback(handler.update_handler)
        handler.hook_interface.before_aggregation = functools.partial(_renew_functions, handler)
    else:
        handler.validators = None
        handler.hook_interface.before_aggregation = lambda: None
    return _fedn_training_round(handler, config, clients, provided_functions)


@functools.wraps(_fedn_aggregate)
def _aggregate(interface, *args, **kwargs):
    interface.before_aggregation()
    return _fedn_aggregate(interface, *args, **kwargs)


def _renew_functions(handler) -> None:
    _wait_for_hooks(handler.hook_interface)
    handler.hook_interface.provided_functions(handler.server_functions)  # no effect if the process has them


def _wait_for_hooks(interface) -> None:
    grpc.channel_ready_future(interface.channel).result(timeout=HOOKS_TIMEOUT)


@functools.wraps(_fedn_assign_round_clients)
def _assign_round_clients(handler, n, type="trainers", selected_clients=None):
    if type == "validators":
        selected_clients = selected_clients or getattr(handler, "validators", None)
    return _fedn_assign_round_clients(handler, n, type, selected_clients)


def _request_model_validation(combiner, session_id, model_id, clients=()):
    # FEDn 0.33 passes the clients in the place of another argument.
    combiner._send_request_type(messages.StatusType.MODEL_VALIDATION, session_id, model_id, None, list(clients))


def _log_restart(state: tenacity.RetryCallState) -> None:
    logger.error("fedn-partial: error in the round loop, which is restarted", exc_info=state.outcome.exception())


@functools.wraps(_fedn_run_combiner)
def _run_combiner(combiner):
    _report_interrupted_round(combiner.db, combiner.id)
    _fedn_run_combiner(combiner)


def _marker() -> Path:
    """Return the path of the file with the configuration of the last requested round."""
    return Path(tempfile.gettempdir()) / "combiner-round.json"


def _failed_report(config: dict) -> dict:
    """Return a report that the controller reads as a round without a model."""
    aggregation = dict.fromkeys(("nr_aggregated_models", "time_model_aggregation", "time_model_load"))
    data = {"aggregation_time": aggregation, "timeout": float(config["round_timeout"])}
    return {"config": config, "round_id": config["round_id"], "data": data}


def _report_interrupted_round(db, name: str) -> None:
    """Report the round in which this combiner was killed as failed; the controller would wait for it forever."""
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
