"""FEDn's client with retries, refusals instead of failed requests, and byte counts; ``device_client`` runs it.

FEDn reads its environment on import: import this module after that is set.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fedn.network.grpc.fedn_pb2 as messages
import grpc
from fedn.network.clients.client_v2 import Client, ClientOptions
from fedn.network.clients.fedn_client import ConnectToApiResult, FednClient
from fedn.network.clients.grpc_handler import GRPC_OPTIONS, GrpcAuth

from fedn_partial.client.device.access_token import Access
from fedn_partial.client.device.active_package import ActivePackage
from fedn_partial.client.device.connection_bytes import ByteCounter
from fedn_partial.client.device.retries import RetryingHandler
from fedn_partial.client.device.task_queue import RoundEnd, RoundOver, TaskQueue
from fedn_partial.client.fedn_api.api import SESSION_OVER, Api, ApiError
from fedn_partial.log import log
from fedn_partial.runtime.refusal import empty_update, refusal_metadata

POLL = 60  # seconds between two checks for a new compute package, or for the end of the session of a training


class ResilientClient(Client):
    """FEDn's client that retries until it reaches the server and answers every training request.

    Parameters
    ----------
    access : connection to the controller.
    options, combiner : as for FEDn's own client.
    package : compute package to run.
    backoff : returns an iterator of the seconds to wait between attempts to reach the server.
    """

    def __init__(
        self,
        access: Access,
        options: ClientOptions,
        combiner: tuple[str | None, int | None],
        package: ActivePackage,
        backoff: Callable[[], Iterator[int]],
    ):
        host, port = combiner
        super().__init__(access.connection.base_url, None, options, host, port)
        self.fedn_client = Transport(package, access)
        self._access = access
        self._package = package
        self._backoff = backoff

    @property
    def token(self):
        return self._access.connection.token

    @token.setter
    def token(self, value):
        pass  # FEDn's constructor assigns None

    def _connect_to_api(self):
        url = self.api_url
        for wait in self._backoff():
            result, answer = self.fedn_client.connect_to_api(self.fedn_api_url, self.token, self.client_obj.to_json())
            if result == ConnectToApiResult.Assigned:
                return True, answer
            if result == ConnectToApiResult.UnAuthorized and self._access.renew():
                log(f"trying again with a new token in {wait} s")
                time.sleep(wait)
                continue
            reasons = {
                ConnectToApiResult.UnAuthorized: f"{url} does not accept this device's token, which may have "
                "expired; put a valid one into client.yaml",
                ConnectToApiResult.ComputePackageMissing: f"{url} has no compute package yet",
                ConnectToApiResult.IncorrectUrl: f"no FEDn controller at {url}",
                ConnectToApiResult.UnMatchedConfig: f"{url} refuses this client: {answer}",
            }
            log(f"{reasons.get(result, f'no answer from {url}: {answer}')}; trying again in {wait} s")
            time.sleep(wait)

    def on_train(self, in_model, client_settings):
        """Train; return a refusal if there is no update, as FEDn's client would end without one."""
        if self._package.problem:
            return refusal(f"this device cannot run FEDn's compute package: {self._package.problem}")
        update, meta = super().on_train(in_model, client_settings)
        round_end = self.fedn_client.tasks.round_end
        if round_end is RoundEnd.NEWER_REQUEST:
            raise RoundOver
        if round_end is not None:  # FEDn's combiner may still wait for an answer
            return refusal(f"training was stopped: {round_end.value}")
        if update is None:
            return refusal(f"the compute package's train wrote no update ({meta['error'].partition(chr(10))[0]})")
        return update, meta

    def on_validation(self, in_model):
        return None if self._package.problem else super().on_validation(in_model)


def refusal(reason: str) -> tuple[io.BytesIO, dict]:
    """Return an empty update and its metadata, with `reason`."""
    log(f"cannot train: {reason}")
    return io.BytesIO(empty_update()), {"training_metadata": refusal_metadata(reason)}


@contextlib.contextmanager
def temporary_folder():
    """Use a temporary folder of its own for this process and its children, and remove it at the end.

    FEDn's client leaves one file behind after each request, and three more after one that fails.
    """
    previous = tempfile.gettempdir()
    try:
        folder = tempfile.mkdtemp()
    except OSError as error:  # such as a full disk; the request itself reports what it cannot write
        log(f"cannot create a temporary folder in {previous}: {error.strerror}")
        yield
        return
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    try:
        yield
    finally:
        os.environ["TMPDIR"] = tempfile.tempdir = previous
        shutil.rmtree(folder, ignore_errors=True)


class Transport(FednClient):
    """FEDn's connection to its combiner, with checks for new packages and the size of each update."""

    def __init__(self, package: ActivePackage, access: Access):
        super().__init__()
        self._package = package
        self._access = access
        self._sampled = False  # whether the session samples clients for each round
        self._trained = False  # whether this client was requested to train since its last validation
        self.tasks = TaskQueue(package.stop)

    def connect_to_api(self, url, token, json):
        """Register this client; the controller's name of the key preferred_combiner is combiner_preferred."""
        json = {**json, "combiner_preferred": json["preferred_combiner"]}
        result, answer = super().connect_to_api(url, token, json) or (ConnectToApiResult.UnknownError, "an error")
        if result == ConnectToApiResult.UnknownError and json["preferred_combiner"]:
            answer = f"{answer} (check that 'preferred_combiner' {json['preferred_combiner']!r} exists)"
        return result, answer

    def init_remote_compute_package(self, url, token, package_checksum=None):
        """Join even if the package cannot be run: requests are then refused until another package is active."""
        self._package.refresh(Api(self._access.connection))
        return True

    @property
    def dispatcher(self):
        return self._package.dispatcher

    @dispatcher.setter
    def dispatcher(self, value):
        pass  # FEDn's constructor assigns None

    def run(self, **options):
        ended = threading.Event()

        def poll():
            while not ended.wait(POLL):
                if self.tasks.current is None:
                    self._package.try_refresh(Api(self._access.connection))
                else:
                    self._check_session()

        threading.Thread(target=poll, daemon=True).start()
        try:
            super().run(**options)
        finally:
            ended.set()

    def _check_session(self) -> None:
        """End the running training request if its session was terminated, after which no request may arrive."""
        task = self.tasks.current
        if task is None or not task.session_id:
            return
        with contextlib.suppress(ApiError):  # such as of a server that shows its sessions to operators only
            if Api(self._access.connection).get(f"sessions/{task.session_id}").get("status") in SESSION_OVER:
                self.tasks.end_round(RoundEnd.SESSION_OVER)

    def listen_to_task_stream(self, client_name, client_id):
        """Process the combiner's requests, while a thread reads the next ones."""

        def read():
            try:
                self.grpc_handler.listen_to_task_stream(client_name, client_id, self.tasks.put)
                self.tasks.fail(ConnectionError("the combiner has closed the stream of requests"))
            except Exception as error:
                self.tasks.fail(error)

        threading.Thread(target=read, daemon=True).start()
        try:
            for request in self.tasks:
                self._task_stream_callback(request)
        finally:
            self.grpc_handler.close()

    def init_grpchandler(self, config, client_name, token):
        host, port = (config.fqdn, 443) if config.fqdn else (config.host, config.port)
        self.grpc_handler = CountingHandler(host, port, name=client_name, token=token, combiner_name=config.host)
        return True

    def _task_stream_callback(self, request):
        with self._package.lock, temporary_folder():
            super()._task_stream_callback(request)

    def update_local_model(self, request):
        settings = json.loads(request.data).get("client_settings") or {}
        session = settings.get("session")
        self._sampled = isinstance(session, dict) and bool(session.get("clients_per_round"))
        self._trained = True
        self.grpc_handler.counter.sent.clear()
        self._package.try_refresh(Api(self._access.connection))
        try:
            super().update_local_model(request)
        except RoundOver:
            log(f"training was stopped: {RoundEnd.NEWER_REQUEST.value}")

    def validate_global_model(self, request):
        """Validate only in rounds that this client was sampled for; FEDn sends the request to all clients."""
        if self._sampled and not self._trained:
            log("not sampled for this round: validation skipped")
            return
        self._trained = False
        super().validate_global_model(request)

    def create_update_message(self, model_id, model_update_id, meta, request):
        """Remove the session's settings, which FEDn would send back, and add the size of the update."""
        round_config = json.loads(meta["config"])
        ids = {key: round_config.get(key) for key in ("round_id", "session_id", "model_id")}
        meta = {**meta, "config": json.dumps(ids), "upload_bytes": 0}
        streamed = self.grpc_handler.counter.sent["Upload"]
        while True:  # until the size in the message is the message's own
            message = super().create_update_message(model_id, model_update_id, meta, request)
            size = streamed + message.ByteSize()
            if size == meta["upload_bytes"]:
                return message
            meta["upload_bytes"] = size

    def send_status(
        self, msg, log_level=messages.LogLevel.INFO, type=None, request=None, session_id=None, sender_name=None
    ):
        # FEDn passes these by position; the handler below needs `request` by name.
        self.grpc_handler.send_status(
            msg, log_level=log_level, type=type, request=request, session_id=session_id, sender_name=sender_name
        )


class CountingHandler(RetryingHandler):
    """FEDn's gRPC calls, with byte counts."""

    counter = ByteCounter()

    def _init_channel(self, host, port, token):
        super()._init_channel(host, port, token)
        self.channel = grpc.intercept_channel(self.channel, self.counter)

    def _init_secure_channel(self, host, port, token):
        """Open the channel with both authority and token; FEDn drops the token if an authority is given."""
        path = os.environ.get("FEDN_GRPC_ROOT_CERT_PATH")
        credentials = grpc.ssl_channel_credentials(Path(path).read_bytes() if path else None)
        if token:
            credentials = grpc.composite_channel_credentials(
                credentials, grpc.metadata_call_credentials(GrpcAuth(token))
            )
        self.channel = grpc.secure_channel(f"{host}:{port}", credentials, options=GRPC_OPTIONS)

    def get_model_from_combiner(self, *args, **kwargs):
        model = super().get_model_from_combiner(*args, **kwargs)
        return None if model is None else ReleasedModel(model.getvalue())

    def send_status(self, msg, *args, request=None, **kwargs):
        # FEDn would send the whole request back, with the session's settings and server functions.
        if isinstance(request, messages.TaskRequest):
            request = None
        return super().send_status(msg, *args, request=request, **kwargs)


class ReleasedModel(io.BytesIO):
    """Model that frees its memory when FEDn writes it to a file; FEDn would hold it during the training."""

    def getbuffer(self):
        content = self.getvalue()
        self.seek(0)
        self.truncate()
        return content
