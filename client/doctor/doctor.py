"""Is this device fit to join? What it is, what is installed on it, and whether FEDn can be reached and lets it in."""

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


def examine(config: Path | None, options: dict, say=print) -> Iterator[Check]:
    """Check this device; each result comes as soon as it is known.

    Parameters
    ----------
    config : this device's client.yaml; None for ./client.yaml if it exists.
    options : of the connection, as the command line has them; they win over the file.
    say : called with a line before something slow begins.
    """
    yield device.python()
    yield device.architecture()
    yield device.glibc()
    yield device.processor()
    yield device.packages("fedn-partial")
    say("importing FEDn's client and TensorFlow, which takes a small board a minute or two")
    client = device.imports("FEDn's client", plan.CLIENT)
    yield client.check
    tensorflow = device.imports("TensorFlow", plan.TENSORFLOW)
    yield tensorflow.check
    there = device.read_memory()
    yield device.memory(there, client.mb + tensorflow.mb if client.mb and tensorflow.mb else None)
    yield from device.swap(there)
    if config is None and Path("client.yaml").exists():
        config = Path("client.yaml")
    checks, file, own = _client_yaml(config)
    yield from checks
    yield device.disk(Path(own.workdir if own else "."))
    if own is None:
        yield Check("data", NOT_CHECKED, "client.yaml says where they are")
    elif tensorflow.check.state == PROBLEM:  # what killed that process may be numpy, and would kill this one
        yield Check("data", NOT_CHECKED, "mend TensorFlow first")
    else:
        yield device.data(own.data)
    if config and file is None and not options.get("api_url"):
        yield Check("server", NOT_CHECKED, "client.yaml says where it is")
        return
    try:
        connection = device_connection(config if file else None, options)
    except FednPartialError as error:
        yield Check("server", PROBLEM, str(error))
    else:
        yield from server.examine(connection, file or ClientFile())


def _client_yaml(config: Path | None) -> tuple[list[Check], ClientFile | None, Device | None]:
    """Return the checks of this device's file, what it holds, and its `fedn_partial:` section if that is good."""
    if config is None:
        return [Check("client.yaml", NOT_CHECKED, "there is none here; name this device's with --config")], None, None
    file, own = None, None
    try:
        file = load_client_file(config)
        own = load_device(config)
        name = load_name(config)
    except FednPartialError as error:
        return [Check("client.yaml", PROBLEM, str(error))], file, own
    ignored = f"; without effect here: {', '.join(file.ignored)}" if file.ignored else ""
    told = f"{config}: device {name}, working folder {own.workdir}{ignored}"
    checks = [Check("client.yaml", OK, told)]
    mode = config.stat().st_mode
    if (file.token or file.refresh_token) and mode & 0o004:
        text = f"{config} holds a token, and every user here can read it; chmod o-rwx {shlex.quote(str(config))}"
        checks.append(Check("token", WARNING, text))
    return checks, file, own
