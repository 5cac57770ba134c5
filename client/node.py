"""One FEDn client on this device: FEDn's own, made to survive what devices meet, and to count its bytes.

FEDn 0.33's client gives up when the server is not there yet, ends when a training request fails, unpacks whatever
paths an archive names, and sends the round's whole configuration back with every message. Plain
``fedn client start -in client.yaml`` works with this package as well; this client adds the patience.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
import time
import uuid
from pathlib import Path

from fedn_partial.client.connection_bytes import ByteCounter
from fedn_partial.errors import FednPartialError
from fedn_partial.launch import CONFIG_VARIABLE
from fedn_partial.schema import SettingsError
from fedn_partial.seed_model.api import Connection
from fedn_partial.settings import load_device, read_yaml

LONGEST_WAIT = 60  # seconds between two tries to reach the server


def run_client(config: str | Path, connection: Connection) -> None:
    """Run the client of the device that client.yaml at `config` describes, until it is stopped.

    Raises
    ------
    SettingsError : client.yaml is refused. FednPartialError : the server does not accept the token.
    """
    config = Path(config).resolve()
    device = load_device(config)
    name = read_yaml(config).get("name")
    if not isinstance(name, str) or not name:
        raise SettingsError(f"{config}: key 'name' is missing; give this device a name of its own")
    workdir = Path(device.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    _set_environment(config, connection)
    os.chdir(workdir)
    wait = 1.0
    while True:  # FEDn's client returns or raises where it should try again
        started = time.monotonic()
        try:
            _make_client(config, connection).start()
        except FednPartialError:
            raise
        except Exception as error:
            _say(f"the client stopped: {type(error).__name__}: {error}")
        if time.monotonic() - started > LONGEST_WAIT:
            wait = 1.0
        _say(f"starting again in {wait:.0f} s")
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT)


def _set_environment(config: Path, connection: Connection) -> None:
    """Set what FEDn reads when it is imported, and what the compute package's processes inherit."""
    os.environ[CONFIG_VARIABLE] = str(config)
    os.environ["FEDN_PACKAGE_EXTRACT_DIR"] = "package"
    os.environ["FEDN_CONNECT_API_SECURE"] = "false" if connection.insecure else "true"
    if connection.ca:
        os.environ["REQUESTS_CA_BUNDLE"] = os.environ["FEDN_GRPC_ROOT_CERT_PATH"] = str(Path(connection.ca).resolve())
    # FEDn runs "python3": let it find this one.
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))


def _own_id() -> str:
    """Return this device's id, made at its first start: without one it would be a new client to FEDn every time."""
    path = Path("client-id")
    if not path.exists():
        path.write_text(str(uuid.uuid4()))
    return path.read_text().strip()


def _say(line: str) -> None:
    print(f"[fedn-partial] {line}", file=sys.stderr, flush=True)


def _make_client(config: Path, connection: Connection):
    """Return our subclass of FEDn's client; FEDn is imported here, after its environment is set."""
    import fedn.network.grpc.fedn_pb2 as messages
    import grpc
    from fedn.common.log_config import set_log_level_from_string
    from fedn.network.clients.client_v2 import Client, ClientOptions
    from fedn.network.clients.fedn_client import ConnectToApiResult, FednClient
    from fedn.network.clients.grpc_handler import GrpcHandler
    from fedn.network.clients.package_runtime import PackageRuntime

    set_log_level_from_string("INFO")
    raw = read_yaml(config)

    class Runtime(PackageRuntime):
        def unpack_compute_package(self):
            """Unpack, but nothing outside the package's folder."""
            archive = Path(self.pkg_path) / Path(self.pkg_name or "").name
            try:
                with tarfile.open(archive) as package:
                    package.extractall(self.pkg_path, filter="data")
                archive.unlink()
            except (OSError, tarfile.TarError) as error:
                _say(f"the compute package cannot be unpacked: {error}")
                return False, ""
            return (Path(self.pkg_path) / "fedn.yaml").exists(), self.pkg_path

    class Handler(GrpcHandler):
        counter = ByteCounter()

        def _init_channel(self, host, port, token):
            super()._init_channel(host, port, token)
            self.channel = grpc.intercept_channel(self.channel, self.counter)

        def send_status(self, msg, *args, request=None, **kwargs):
            # FEDn would send the request back whole, with the session's settings and server functions in it.
            if isinstance(request, messages.TaskRequest):
                request = None
            return super().send_status(msg, *args, request=request, **kwargs)

    class Transport(FednClient):
        def __init__(self):
            super().__init__()
            self._package_runtime = Runtime(self._package_runtime.pkg_path)

        def init_grpchandler(self, config, client_name, token):
            host, port = (config.fqdn, 443) if config.fqdn else (config.host, config.port)
            self.grpc_handler = Handler(host=host, port=port, name=client_name, token=token, combiner_name=config.host)
            return True

        def send_status(
            self, msg, log_level=messages.LogLevel.INFO, type=None, request=None, session_id=None, sender_name=None
        ):
            self.grpc_handler.send_status(
                msg, log_level=log_level, type=type, request=request, session_id=session_id, sender_name=sender_name
            )

        def update_local_model(self, request):
            self.grpc_handler.counter.sent.clear()
            try:
                super().update_local_model(request)
            except AttributeError as error:  # FEDn's answer to a training request that left no update
                _say(f"no update for this round: {error}")

        def create_update_message(self, model_id, model_update_id, meta, request):
            round_config = json.loads(meta["config"])
            kept = ("round_id", "session_id", "model_id")
            meta = {**meta, "config": json.dumps({key: round_config.get(key) for key in kept}), "upload_bytes": 0}
            streamed = self.grpc_handler.counter.sent["Upload"]
            while True:  # the message holds its own size
                message = super().create_update_message(model_id, model_update_id, meta, request)
                size = streamed + message.ByteSize()
                if size == meta["upload_bytes"]:
                    return message
                meta["upload_bytes"] = size

    class PatientClient(Client):
        def _connect_to_api(self):
            wait = 1.0
            while True:
                result, answer = self.fedn_client.connect_to_api(
                    self.fedn_api_url, self.token, self.client_obj.to_json()
                )
                if result == ConnectToApiResult.Assigned:
                    return True, answer
                where = connection.base_url
                if result == ConnectToApiResult.UnAuthorized:
                    raise FednPartialError(
                        f"{where} does not accept this device's token; put a valid one into {config}"
                    )
                reasons = {
                    ConnectToApiResult.ComputePackageMissing: f"{where} has no compute package yet",
                    ConnectToApiResult.IncorrectUrl: f"there is no FEDn controller at {where}",
                    ConnectToApiResult.UnMatchedConfig: f"{where} refuses this client: {answer}",
                }
                _say(f"{reasons.get(result, f'no answer from {where}')}; trying again in {wait:.0f} s")
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)

    client = PatientClient(
        api_url=connection.base_url,
        api_port=None,
        client_obj=ClientOptions(
            raw["name"], "remote", raw.get("preferred_combiner"), raw.get("client_id") or _own_id()
        ),
        combiner_host=raw.get("combiner"),
        combiner_port=raw.get("combiner_port"),
        token=connection.token,
        package_checksum=raw.get("package_checksum"),
    )
    client.fedn_client = Transport()
    return client
