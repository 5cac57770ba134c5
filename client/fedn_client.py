"""FEDn's client with the patience, the care and the byte count that it lacks; ``node`` runs it.

FEDn reads its environment when it is imported, so this module is imported after that is set.
"""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import fedn.network.grpc.fedn_pb2 as messages
import grpc
from fedn.network.clients.client_v2 import Client, ClientOptions
from fedn.network.clients.fedn_client import ConnectToApiResult, FednClient
from fedn.network.clients.grpc_handler import GrpcHandler
from fedn.network.clients.package_runtime import PackageRuntime

from fedn_partial.client.connection_bytes import ByteCounter
from fedn_partial.errors import FednPartialError
from fedn_partial.log import log
from fedn_partial.update import plain


class PatientClient(Client):
    """FEDn's client, which keeps trying to reach its server, and whose connection is a ``Transport``.

    Parameters
    ----------
    url : of the controller. options, checksum, combiner : as FEDn's own client takes them.
    waits : returns the seconds to wait between tries to reach the server.
    """

    def __init__(
        self,
        url: str,
        options: ClientOptions,
        token: str | None,
        checksum: str | None,
        combiner: tuple[str | None, int | None],
        waits: Callable[[], Iterator[int]],
    ):
        host, port = combiner
        super().__init__(url, None, options, host, port, token=token, package_checksum=checksum)
        self.fedn_client = Transport()
        self._waits = waits

    def _connect_to_api(self):
        where = self.api_url
        for wait in self._waits():
            result, answer = self.fedn_client.connect_to_api(self.fedn_api_url, self.token, self.client_obj.to_json())
            if result == ConnectToApiResult.Assigned:
                return True, answer
            if result == ConnectToApiResult.UnAuthorized:
                raise FednPartialError(f"{where} does not accept this device's token; put a valid one into client.yaml")
            reasons = {
                ConnectToApiResult.ComputePackageMissing: f"{where} has no compute package yet",
                ConnectToApiResult.IncorrectUrl: f"there is no FEDn controller at {where}",
                ConnectToApiResult.UnMatchedConfig: f"{where} refuses this client: {answer}",
            }
            log(f"{reasons.get(result, f'no answer from {where}')}; trying again in {wait} s")
            time.sleep(wait)


class Transport(FednClient):
    """FEDn's connection to its combiner: survives a request without a result, and says what an update weighed."""

    def __init__(self):
        super().__init__()
        self._package_runtime = CarefulRuntime(self._package_runtime.pkg_path)

    def init_grpchandler(self, config, client_name, token):
        host, port = (config.fqdn, 443) if config.fqdn else (config.host, config.port)
        self.grpc_handler = CountingHandler(host, port, name=client_name, token=token, combiner_name=config.host)
        return True

    def update_local_model(self, request):
        self.grpc_handler.counter.sent.clear()
        try:
            super().update_local_model(request)
        except AttributeError as error:  # FEDn's answer to a training request that left no update
            log(f"no update for this round: {error}")

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


class CountingHandler(GrpcHandler):
    """FEDn's gRPC calls, with the bytes of each counted."""

    counter = ByteCounter()

    def _init_channel(self, host, port, token):
        super()._init_channel(host, port, token)
        self.channel = grpc.intercept_channel(self.channel, self.counter)

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


class CarefulRuntime(PackageRuntime):
    """FEDn's handling of the compute package, which unpacks nothing outside the package's folder."""

    def unpack_compute_package(self):
        archive = Path(self.pkg_path) / Path(self.pkg_name or "").name
        try:
            with tarfile.open(archive) as package:
                package.extractall(self.pkg_path, members=plain_members(package))
            archive.unlink()
        except (OSError, tarfile.TarError) as error:
            log(f"the compute package cannot be unpacked: {error}")
            return False, ""
        return (Path(self.pkg_path) / "fedn.yaml").exists(), self.pkg_path


def plain_members(archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """Return what is in an archive, if that is files and folders below it and nothing else.

    Debian 12's Python 3.11.2 does not have tarfile's own filter for this yet.

    Raises
    ------
    tarfile.TarError : a link, a device, or a path that leads out of the archive's folder.
    """
    members = archive.getmembers()
    for member in members:
        path = PurePosixPath(member.name)
        if not (member.isfile() or member.isdir()) or path.is_absolute() or ".." in path.parts:
            raise tarfile.TarError(f"{plain(member.name)!r} is not a plain file or folder below it")
        member.mode = 0o755 if member.isdir() else 0o644
    return members
