"""FEDn's client with the patience, the care and the byte count that it lacks; ``node`` runs it.

FEDn reads its environment when it is imported, so this module is imported after that is set.
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

POLL = 60  # seconds between two looks for a new compute package, or at the session that this device trains for


class PatientClient(Client):
    """FEDn's client, which keeps trying to reach its server, and which answers every training request.

    Parameters
    ----------
    access : to the controller.
    options, combiner : as FEDn's own client takes them.
    package : what it runs.
    waits : returns the seconds to wait between tries to reach the server.
    """

    def __init__(
        self,
        access: Access,
        options: ClientOptions,
        combiner: tuple[str | None, int | None],
        package: ActivePackage,
        waits: Callable[[], Iterator[int]],
    ):
        host, port = combiner
        super().__init__(access.connection.base_url, None, options, host, port)
        self.fedn_client = Transport(package, access)
        self._access = access
        self._package = package
        self._waits = waits

    @property
    def token(self):
        return self._access.connection.token

    @token.setter
    def token(self, value):
        pass  # FEDn's constructor sets none

    def _connect_to_api(self):
        where = self.api_url
        for wait in self._waits():
            result, answer = self.fedn_client.connect_to_api(self.fedn_api_url, self.token, self.client_obj.to_json())
            if result == ConnectToApiResult.Assigned:
                return True, answer
            if result == ConnectToApiResult.UnAuthorized and self._access.renew():
                log(f"trying with another token in {wait} s")
                time.sleep(wait)
                continue
            reasons = {
                ConnectToApiResult.UnAuthorized: f"{where} does not accept this device's token, which may have "
                "expired; put a valid one into client.yaml",
                ConnectToApiResult.ComputePackageMissing: f"{where} has no compute package yet",
                ConnectToApiResult.IncorrectUrl: f"there is no FEDn controller at {where}",
                ConnectToApiResult.UnMatchedConfig: f"{where} refuses this client: {answer}",
            }
            log(f"{reasons.get(result, f'no answer from {where}: {answer}')}; trying again in {wait} s")
            time.sleep(wait)

    def on_train(self, in_model, client_settings):
        """Train, and answer with a refusal where no update comes of it: FEDn's client does not survive that."""
        if self._package.problem:
            return refusal(f"this device cannot run FEDn's compute package: {self._package.problem}")
        update, meta = super().on_train(in_model, client_settings)
        round_end = self.fedn_client.tasks.round_end
        if round_end is RoundEnd.NEWER_REQUEST:
            raise RoundOver
        if round_end is not None:  # FEDn's combiner may still wait for an answer
            return refusal(f"training was stopped: {round_end.value}")
        if update is None:
            return refusal(f"the compute package's train left no update ({meta['error'].partition(chr(10))[0]})")
        return update, meta

    def on_validation(self, in_model):
        return None if self._package.problem else super().on_validation(in_model)


def refusal(reason: str) -> tuple[io.BytesIO, dict]:
    """Return an empty update, and what FEDn's client sends with it, ``reason`` included."""
    log(f"cannot train: {reason}")
    return io.BytesIO(empty_update()), {"training_metadata": refusal_metadata(reason)}


@contextlib.contextmanager
def temporary_folder():
    """Let this process, and those that it starts, make their temporary files in a folder that is removed at the end.

    FEDn's client leaves one file behind with every request, and three more with one that fails.
    """
    before = tempfile.gettempdir()
    try:
        folder = tempfile.mkdtemp()
    except OSError as error:  # of a full disk; the request says what it cannot write
        log(f"no folder for temporary files in {before}: {error.strerror}")
        yield
        return
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    try:
        yield
    finally:
        os.environ["TMPDIR"] = tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)


class Transport(FednClient):
    """FEDn's connection to its combiner: looks for new packages, and says what an update weighed."""

    def __init__(self, package: ActivePackage, access: Access):
        super().__init__()
        self._package = package
        self._access = access
        self._sampled = False  # whether the session draws clients for each round
        self._trained = False  # whether this one was asked to train since it last validated
        self.tasks = TaskQueue(package.stop)

    def connect_to_api(self, url, token, json):
        """Register this client, also under the name that the controller has for its preferred combiner."""
        json = {**json, "combiner_preferred": json["preferred_combiner"]}
        result, answer = super().connect_to_api(url, token, json) or (ConnectToApiResult.UnknownError, "an error")
        if result == ConnectToApiResult.UnknownError and json["preferred_combiner"]:
            answer = f"{answer} (is there a combiner {json['preferred_combiner']!r}, the 'preferred_combiner'?)"
        return result, answer

    def init_remote_compute_package(self, url, token, package_checksum=None):
        """Join whether or not the package can be run: one that cannot is refused at each request, and may change."""
        self._package.refresh(Api(self._access.connection))
        return True

    @property
    def dispatcher(self):
        return self._package.dispatcher

    @dispatcher.setter
    def dispatcher(self, value):
        pass  # FEDn's constructor sets none

    def run(self, **options):
        ended = threading.Event()

        def poll():
            while not ended.wait(POLL):
                if self.tasks.current is None:
                    self._package.look(Api(self._access.connection))
                else:
                    self._look_at_session()

        threading.Thread(target=poll, daemon=True).start()
        try:
            super().run(**options)
        finally:
            ended.set()

    def _look_at_session(self) -> None:
        """End the training request that runs if its session was terminated: no other request need follow."""
        task = self.tasks.current
        if task is None or not task.session_id:
            return
        with contextlib.suppress(ApiError):  # such as of a server that shows its sessions to operators only
            if Api(self._access.connection).get(f"sessions/{task.session_id}").get("status") in SESSION_OVER:
                self.tasks.end_round(RoundEnd.SESSION_OVER)

    def listen_to_task_stream(self, client_name, client_id):
        """Carry out the combiner's requests, and read the next ones meanwhile."""

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
        self._package.look(Api(self._access.connection))
        try:
            super().update_local_model(request)
        except RoundOver:
            log(f"training was stopped: {RoundEnd.NEWER_REQUEST.value}")

    def validate_global_model(self, request):
        """Validate the model of a round that this client was drawn for; FEDn asks all clients that are connected."""
        if self._sampled and not self._trained:
            log("not drawn for this round: its model is not downloaded")
            return
        self._trained = False
        super().validate_global_model(request)

    def create_update_message(self, model_id, model_update_id, meta, request):
        """Leave out the session's settings, which FEDn would send back, and put in how many bytes the update is."""
        round_config = json.loads(meta["config"])
        kept = {key: round_config.get(key) for key in ("round_id", "session_id", "model_id")}
        meta = {**meta, "config": json.dumps(kept), "upload_bytes": 0}
        streamed = self.grpc_handler.counter.sent["Upload"]
        while True:  # the message holds its own size
            message = super().create_update_message(model_id, model_update_id, meta, request)
            size = streamed + message.ByteSize()
            if size == meta["upload_bytes"]:
                return message
            meta["upload_bytes"] = size

    def send_status(
        self, msg, log_level=messages.LogLevel.INFO, type=None, request=None, session_id=None, sender_name=None
    ):
        # FEDn's own hands these on by position, past the handler's look at `request`.
        self.grpc_handler.send_status(
            msg, log_level=log_level, type=type, request=request, session_id=session_id, sender_name=sender_name
        )


class CountingHandler(RetryingHandler):
    """FEDn's gRPC calls, with the bytes of each counted."""

    counter = ByteCounter()

    def _init_channel(self, host, port, token):
        super()._init_channel(host, port, token)
        self.channel = grpc.intercept_channel(self.channel, self.counter)

    def _init_secure_channel(self, host, port, token):
        """As FEDn's, which leaves the token out where a certificate authority is given."""
        path = os.environ.get("FEDN_GRPC_ROOT_CERT_PATH")
        credentials = grpc.ssl_channel_credentials(Path(path).read_bytes() if path else None)
        if token:
            credentials = grpc.composite_channel_credentials(
                credentials, grpc.metadata_call_credentials(GrpcAuth(token))
            )
        self.channel = grpc.secure_channel(f"{host}:{port}", credentials, options=GRPC_OPTIONS)

    def get_model_from_combiner(self, *args, **kwargs):
        model = super().get_model_from_combiner(*args, **kwargs)
        return None if model is None else HandedOver(model.getvalue())

    def send_status(self, msg, *args, request=None, **kwargs):
        # FEDn would send a request back whole, with the session's settings and server functions in it.
        if isinstance(request, messages.TaskRequest):
            request = None
        return super().send_status(msg, *args, request=request, **kwargs)


class HandedOver(io.BytesIO):
    """A model that is gone from memory once it was written to its file: FEDn would hold it while the package trains."""

    def getbuffer(self):
        content = self.getvalue()
        self.seek(0)
        self.truncate()
        return content
