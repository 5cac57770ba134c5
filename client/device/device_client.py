"""One FEDn client on this device: FEDn's own, made to survive what devices meet, and to count its bytes.

FEDn 0.33's client gives up when the server is not there yet, ends when a training request fails, unpacks whatever
paths an archive names, and sends the round's whole configuration back with every message. Plain
``fedn client start -in client.yaml`` works with this package as well; this one is for devices that are left alone.
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

LONGEST_WAIT = 60  # seconds between two tries to reach the server


def run_client(config: str | Path, connection: Connection) -> None:
    """Run the client of the device that client.yaml at `config` describes, until it is stopped.

    Raises
    ------
    SettingsError : client.yaml is refused. FednPartialError : another client runs in the working folder.
    """
    config = Path(config).resolve()
    device = load_device(config)
    load_name(config)
    file = load_client_file(config)
    if file.ignored:
        log(f"{config}: without effect here: {', '.join(file.ignored)}")
    workdir = Path(device.workdir)
    lock = work_folder.claim(workdir, config)
    try:
        _join(config, file, connection, workdir)
    finally:
        os.close(lock)


def _join(config: Path, file: ClientFile, connection: Connection, workdir: Path) -> None:
    """Take part from the folder `workdir`, which is locked."""
    _set_environment(config, connection)
    _make_temporary(workdir / "tmp")
    os.chdir(workdir)
    return_freed_memory()
    from fedn_partial.client.device.active_package import ActivePackage  # FEDn, now that its environment is set

    def read_tokens():
        now = load_client_file(config)
        return now.token, now.refresh_token

    access = Access(connection, read_tokens)
    package = ActivePackage(Path("package"), file.package_checksum)
    waits = waiting_times()
    while True:  # FEDn's client returns or raises where it should try again
        started = time.monotonic()
        try:
            _make_client(file, access, package).start()
        except Exception as error:
            log(f"the client stopped: {type(error).__name__}: {error}")
        if time.monotonic() - started > LONGEST_WAIT:
            waits = waiting_times()
        wait = next(waits)
        log(f"starting again in {wait} s")
        time.sleep(wait)


def device_connection(config: str | Path | None, options: dict) -> Connection:
    """Return where this device's FEDn is: from `options`, else client.yaml at `config`, else as for every command.

    Raises
    ------
    SettingsError : client.yaml cannot be read, one of its keys is refused, or nothing says where FEDn is.
    """
    file = load_client_file(config) if config else ClientFile()
    given = {key: value for key, value in options.items() if value}
    return connection(default_url=None, **{**file.connection_options(), **given})


def waiting_times() -> Iterator[int]:
    """Return the seconds to wait between tries: twice as long each time, up to a bound."""
    return (min(2**tries, LONGEST_WAIT) for tries in itertools.count())


def _set_environment(config: Path, connection: Connection) -> None:
    """Set what FEDn reads when it is imported, and what the compute package's processes inherit."""
    os.environ[CONFIG_VARIABLE] = str(config)
    os.environ["FEDN_PACKAGE_EXTRACT_DIR"] = "package"
    os.environ["FEDN_CONNECT_API_SECURE"] = "false" if connection.insecure else "true"
    if connection.ca:
        os.environ["REQUESTS_CA_BUNDLE"] = os.environ["FEDN_GRPC_ROOT_CERT_PATH"] = str(Path(connection.ca).resolve())
    # FEDn runs "python3": let it find this one.
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))


def _make_temporary(folder: Path) -> None:
    """Have FEDn's temporary models written to `folder`, and remove those that a killed client left there.

    In /tmp they would pile up, or, where that is in memory, take from the training.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def _own_id() -> str:
    """Return this device's id, made at its first start: without one it would be a new client to FEDn every time."""
    path = Path("client-id")
    if not path.exists():
        write_text(path, str(uuid.uuid4()))
    return path.read_text().strip()


def _make_client(file: ClientFile, access: Access, package):
    """Return FEDn's client for this device, which runs `package`."""
    from fedn.common.log_config import set_log_level_from_string
    from fedn.network.clients.client_v2 import ClientOptions

    from fedn_partial.client.device.fedn_client import PatientClient

    set_log_level_from_string("INFO")
    return PatientClient(
        access,
        ClientOptions(file.name, "remote", file.preferred_combiner, file.client_id or _own_id()),
        combiner=(file.combiner, file.combiner_port),
        package=package,
        waits=waiting_times,
    )
