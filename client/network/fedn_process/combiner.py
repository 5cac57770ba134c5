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

import grpc

from fedn_partial.client.network.fedn_process import control
from fedn_partial.runtime.atomic import write_text
from fedn_partial.seed_model import fallback

MODEL_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
UPLOAD_SLACK = 1_000_000  # bytes
MESSAGES_A_CLIENT = 3  # that are queued in a round
OTHER_MESSAGES = 50  # of clients that were not asked, or for other rounds
MOST_DEPTH = 20  # of nested metadata
HOOKS_PATIENCE = 30  # seconds that a round waits for a hooks process that is being restarted


def correct() -> None:
    """Correct FEDn's combiner, before it is started."""
    _guard_control()
    _check_model_ids()
    _take_updates()
    _keep_rounds_going()
    _send_validations_to_the_clients_of_the_round()


def _guard_control() -> None:
    """Take orders (rounds, server functions) from this network's controller alone: FEDn takes them from any client."""
    from fedn.network.grpc import server
    from fedn.network.grpc.auth import JWTInterceptor, _unary_unary_rpc_terminator

    class Guard(JWTInterceptor):
        def intercept_service(self, continuation, call):
            key = dict(call.invocation_metadata).get(control.METADATA, "")
            if call.method.startswith("/fedn.Control/") and not control.is_key(key):
                return _unary_unary_rpc_terminator(grpc.StatusCode.PERMISSION_DENIED, "only the controller may")
            return super().intercept_service(continuation, call)

    server.JWTInterceptor = Guard


def _check_model_ids() -> None:
    """Make FEDn's model storage refuse ids that are paths: FEDn joins them to its folder as they come."""
    from fedn.network.combiner import modelservice
    from fedn.network.combiner.roundhandler import RoundHandler
    from fedn.network.storage.models.tempmodelstorage import TempModelStorage

    class CheckedStorage(TempModelStorage):
        """Models by checked ids. The global models, which the combiner itself puts in, no client can replace."""

        def __init__(self):
            super().__init__()
            self.staged = set()
            self.stager = None  # thread of the combiner that puts a global model in now

        def get_ptr(self, model_id):
            stages = threading.get_ident() == self.stager
            if model_id in self.staged and not stages:
                raise ValueError(f"{model_id} is a global model")
            if model_id not in self.models and not stages:
                path = os.path.join(self.default_dir, _checked(model_id))
                self.models[model_id] = {"file": BoundedFile(path, "wb", self.largest)}
            return super().get_ptr(_checked(model_id))

        @property
        def largest(self):
            """Bytes that an upload may have: twice those of a global model, and some more."""
            paths = [os.path.join(self.default_dir, model_id) for model_id in self.staged]
            return 2 * max((os.path.getsize(path) for path in paths if os.path.exists(path)), default=0) + UPLOAD_SLACK

        def stage(self, model_id, stage):
            """Put in a global model with `stage`, in the place of what a client has uploaded under its id."""
            if model_id in self.staged and self.exist(model_id):
                return
            self.delete(model_id)
            self.staged.add(model_id)
            self.stager = threading.get_ident()
            try:
                stage(model_id)
            except BaseException:
                self.delete(model_id)
                raise
            finally:
                self.stager = None

        def set_model_metadata(self, model_id, model_metadata):
            super().set_model_metadata(_checked(model_id), model_metadata)

        def delete(self, model_id):
            """Delete a model that is there, or not, or half there."""
            self.staged.discard(model_id)
            self.models.pop(model_id, None)
            self.models_metadata.pop(model_id, None)
            try:
                os.remove(os.path.join(self.default_dir, _checked(model_id)))
            except (OSError, ValueError):
                return False
            return True

    stage_model = RoundHandler.stage_model

    @functools.wraps(stage_model)
    def staged(handler, model_id, *args, **kwargs):
        storage = handler.modelservice.temp_model_storage
        storage.stage(model_id, lambda model_id: stage_model(handler, model_id, *args, **kwargs))

    modelservice.TempModelStorage = CheckedStorage
    RoundHandler.stage_model = staged


def _checked(model_id) -> str:
    if not MODEL_ID.fullmatch(str(model_id)):
        raise ValueError(f"invalid model id {str(model_id)[:200]!r}: letters, digits, '-', '_' and '.' are allowed")
    return str(model_id)


class BoundedFile(io.FileIO):
    """A file that takes so many bytes and no more."""

    def __init__(self, path: str, mode: str, limit: int):
        super().__init__(path, mode)
        self.limit = limit

    def write(self, data) -> int:
        if self.tell() + len(data) > self.limit:
            raise ValueError(f"the model is larger than {self.limit:,} bytes")
        return super().write(data)


class UploadedFile(io.FileIO):
    """An uploaded model, read from disk piece by piece; FEDn would hold all of it in memory."""

    def getbuffer(self) -> bytes:
        self.seek(0)
        return self.readall()


def _take_updates() -> None:
    """Correct how FEDn's combiner takes updates.

    An update whose model was never uploaded is handed on as an empty one, which the hooks skip: in FEDn it fails the
    aggregation of all. The wait for a round's updates ends when the clients that were asked have answered, not when
    as many messages have arrived, or when the controller asks for another round: the session was terminated.
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
        if _depth(update.meta) > MOST_DEPTH:  # which would end the round where it is read
            logger.warning("fedn-partial: refused an update whose metadata are nested too deep, or damaged")
            return False
        if not is_valid(handler, update):
            return False
        client_id = update.sender.client_id
        answers = _round_id(update) == getattr(handler, "round_id", None)
        with handler.lock:
            sender = client_id if answers and client_id in handler.asked else None
            handler.messages[sender] = handler.messages.get(sender, 0) + 1
            if handler.messages[sender] > (MESSAGES_A_CLIENT if sender else OTHER_MESSAGES):
                return False
            if answers:
                handler.answered.add(client_id)
        return True

    wait = UpdateHandler.waitforit

    def waitforit(handler, config, buffer_size=100, polling_interval=0.1):
        if not fallback.is_ours(config):
            return wait(handler, config, buffer_size, polling_interval)
        deadline = time.monotonic() + float(config["round_timeout"])
        while time.monotonic() < deadline:
            with handler.lock:
                if len(handler.answered & handler.asked) >= buffer_size:
                    return None
            if handler.is_given_up():
                logger.warning(f"fedn-partial: round {handler.round_id} was given up: the controller asks for another")
                return None
            time.sleep(polling_interval)
        return None

    UpdateHandler.lock = threading.Lock()
    UpdateHandler.asked = UpdateHandler.answered = frozenset()
    UpdateHandler.messages = {}
    UpdateHandler.is_given_up = staticmethod(lambda: False)
    UpdateHandler.load_model_update_bytesIO = load
    UpdateHandler._validate_model_update = validate
    UpdateHandler.waitforit = waitforit


def _depth(text: str) -> int:
    """Return how deep the JSON `text` is nested; more than MOST_DEPTH also if it cannot be read."""
    try:
        level, depth = [json.loads(text)], 0
        while level and depth <= MOST_DEPTH:
            containers = [value for value in level if isinstance(value, (dict, list))]
            level = [item for value in containers for item in (value.values() if isinstance(value, dict) else value)]
            depth += 1
        return depth
    except (ValueError, RecursionError):
        return MOST_DEPTH + 1


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
            updates.messages = {}
        updates.is_given_up = lambda: not handler.round_configs.empty()
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
