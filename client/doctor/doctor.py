"""All checks of ``fedn-partial doctor``: the machine, client.yaml, the shard, and the connection to FEDn."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from fedn_partial.client.device.device_client import device_connection
from fedn_partial.client.doctor import device_checks as device
from fedn_partial.client.doctor import server_checks as server
from fedn_partial.client.doctor.check import NOT_CHECKED, OK, PROBLEM, WARNING, Check
from fedn_partial.client.profiling import plan
from fedn_partial.errors import FednPartialError
from fedn_partial.settings.case import Device
from fedn_partial.settings.client_file import ClientFile, load_client_file, load_device, load_name


def examine(config: Path | None, options: dict, on_event=print) -> Iterator[Check]:
    """Yield the checks of this device, each as soon as it is done.

    Parameters
    ----------
    config : this device's client.yaml; None for ./client.yaml if it exists.
    options : connection options of the command line, which override the file.
    on_event : called with a line before a slow step.
    """
    yield device.python()
    yield device.architecture()
    yield device.glibc()
    yield device.processor()
    yield device.packages("fedn-partial")
    on_event("importing FEDn's client and TensorFlow (a minute or two on a small board)")
    client = device.imports("FEDn's client", plan.CLIENT)
    yield client.check
    tensorflow = device.imports("TensorFlow", plan.TENSORFLOW)
    yield tensorflow.check
    reading = device.read_memory()
    yield device.memory(reading, client.mb + tensorflow.mb if client.mb and tensorflow.mb else None)
    yield from device.swap(reading)
    if config is None and Path("client.yaml").exists():
        config = Path("client.yaml")
    checks, file, settings = _client_yaml(config)
    yield from checks
    yield device.disk(Path(settings.workdir if settings else "."))
    if settings is None:
        yield Check("data", NOT_CHECKED, "needs a valid client.yaml")
    elif tensorflow.check.state == PROBLEM:  # the cause may be numpy, which would kill this process as well
        yield Check("data", NOT_CHECKED, "needs TensorFlow; fix that first")
    else:
        yield device.data(settings.data)
    if config and file is None and not options.get("api_url"):
        yield Check("server", NOT_CHECKED, "needs a valid client.yaml")
        return
    try:
        connection = device_connection(config if file else None, options)
    except FednPartialError as error:
        yield Check("server", PROBLEM, str(error))
    else:
        yield from server.examine(connection, file or ClientFile())


def _client_yaml(config: Path | None) -> tuple[list[Check], ClientFile | None, Device | None]:
    """Return the checks of client.yaml, its FEDn keys, and its `fedn_partial:` section; None for invalid parts."""
    if config is None:
        return [Check("client.yaml", NOT_CHECKED, "not in this folder; name the file with --config")], None, None
    file, settings = None, None
    try:
        file = load_client_file(config)
        settings = load_device(config)
        name = load_name(config)
    except FednPartialError as error:
        return [Check("client.yaml", PROBLEM, str(error))], file, settings
    ignored = f"; ignored keys: {', '.join(file.ignored)}" if file.ignored else ""
    text = f"{config}: device {name}, working folder {settings.workdir}{ignored}"
    checks = [Check("client.yaml", OK, text)]
    mode = config.stat().st_mode
    if (file.token or file.refresh_token) and mode & 0o004:
        text = f"every user can read the token in {config}; run: chmod o-rwx {shlex.quote(str(config))}"
        checks.append(Check("token", WARNING, text))
    return checks, file, settings
