"""Run FEDn's client unattended: recover from failures of the server and of requests, and count bytes.

FEDn 0.33's client ends if the server is unavailable at its start or a training request fails, unpacks archives without
checking their paths, and sends the round's configuration back with every message. Plain
``fedn client start -in client.yaml`` works with this package as well.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from fedn_partial.client.device import work_folder
from fedn_partial.client.device.access_token import Access
from fedn_partial.client.fedn_api.api import Connection, connection
from fedn_partial.log import log
from fedn_partial.runtime.atomic import write_text
from fedn_partial.runtime.forkserver import return_freed_memory
from fedn_partial.runtime.launch import CONFIG_VARIABLE
from fedn_partial.settings.client_file import ClientFile, load_client_file, load_device, load_name

MAX_WAIT = 60  # seconds between two attempts to reach the server


def run_client(config: str | Path, connection: Connection) -> None:
    """Run the client that client.yaml at `config` describes, until it is stopped.

    Raises
    ------
    SettingsError : client.yaml is invalid.
    FednPartialError : another client runs in the working folder.
    """
    config = Path(config).resolve()
    device = load_device(config)
    load_name(config)
    file = load_client_file(config)
    if file.ignored:
        log(f"{config}: ignored keys: {', '.join(file.ignored)}")
    workdir = Path(device.workdir)
    lock = work_folder.claim(workdir, config)
    try:
        _join(config, file, connection, workdir)
    finally:
        os.close(lock)


def _join(config: Path, file: ClientFile, connection: Connection, workdir: Path) -> None:
    """Run FEDn's client in the locked folder `workdir`; restart it whenever it ends."""
    _set_environment(config, connection)
    _make_temporary(workdir / "tmp")
    os.chdir(workdir)
    return_freed_memory()
    from fedn_partial.client.device.active_package import ActivePackage  # imports FEDn, which reads the environment

    def read_tokens():
        current = load_client_file(config)
        return current.token, current.refresh_token

    access = Access(connection, read_tokens)
    package = ActivePackage(Path("package"), file.package_checksum)
    waits = backoff_seconds()
    while True:
        started = time.monotonic()
        try:
            _make_client(file, access, package).start()
        except Exception as error:
            log(f"client stopped: {type(error).__name__}: {error}")
        if time.monotonic() - started > MAX_WAIT:
            waits = backoff_seconds()
        wait = next(waits)
        log(f"restarting the client in {wait} s")
        time.sleep(wait)


def device_connection(config: str | Path | None, options: dict) -> Connection:
    """Return this device's connection: from `options`, else client.yaml at `config`, else as ``api.connection``.

    Raises
    ------
    SettingsError : client.yaml cannot be read or has an invalid key, or api_url is missing.
    """
    file = load_client_file(config) if config else ClientFile()
    given = {key: value for key, value in options.items() if value}
    return connection(default_url=None, **{**file.connection_options(), **given})


def backoff_seconds() -> Iterator[int]:
    """Yield the seconds to wait before each retry: 1, 2, 4, ... up to MAX_WAIT."""
    return (min(2**retries, MAX_WAIT) for retries in itertools.count())


def _set_environment(config: Path, connection: Connection) -> None:
    """Set the variables that FEDn reads on import, and those that the compute package's processes inherit."""
    os.environ[CONFIG_VARIABLE] = str(config)
    os.environ["FEDN_PACKAGE_EXTRACT_DIR"] = "package"
    os.environ["FEDN_CONNECT_API_SECURE"] = "false" if connection.insecure else "true"
    if connection.ca:
        os.environ["REQUESTS_CA_BUNDLE"] = os.environ["FEDN_GRPC_ROOT_CERT_PATH"] = str(Path(connection.ca).resolve())
    # FEDn runs "python3", which must be this interpreter.
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))


def _make_temporary(folder: Path) -> None:
    """Use `folder` for temporary files, and remove files left behind by a killed client.

    In /tmp they would accumulate, or take memory from the training where /tmp is in memory.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def _own_id() -> str:
    """Return this device's id, generated at the first start: without it FEDn registers a new client every time."""
    path = Path("client-id")
    if not path.exists():
        write_text(path, str(uuid.uuid4()))
    return path.read_text().strip()


def _make_client(file: ClientFile, access: Access, package):
    """Return FEDn's client for this device and `package`."""
    from fedn.common.log_config import set_log_level_from_string
    from fedn.network.clients.client_v2 import ClientOptions

    from fedn_partial.client.device.fedn_client import ResilientClient

    set_log_level_from_string("INFO")
    return ResilientClient(
        access,
        ClientOptions(file.name, "remote", file.preferred_combiner, file.client_id or _own_id()),
        combiner=(file.combiner, file.combiner_port),
        package=package,
        backoff=backoff_seconds,
    )
