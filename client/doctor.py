"""Is this device fit to join? What it is, what is installed on it, and whether FEDn can be reached and lets it in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fedn_partial.client import device_checks as device
from fedn_partial.client import plan
from fedn_partial.client import server_checks as server
from fedn_partial.client.check import NOT_CHECKED, OK, PROBLEM, Check
from fedn_partial.client.node import device_connection
from fedn_partial.errors import FednPartialError
from fedn_partial.settings import Device, load_device, read_yaml


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
    check, raw, own = _client_yaml(config)
    yield check
    yield device.disk(Path(own.workdir if own else "."))
    if own is None:
        yield Check("data", NOT_CHECKED, "client.yaml says where they are")
    elif tensorflow.check.state == PROBLEM:  # what killed that process may be numpy, and would kill this one
        yield Check("data", NOT_CHECKED, "mend TensorFlow first")
    else:
        yield device.data(own.data)
    if config and not raw and not options.get("api_url"):
        yield Check("server", NOT_CHECKED, "client.yaml says where it is")
        return
    try:
        connection = device_connection(config if raw else None, options)
    except FednPartialError as error:
        yield Check("server", PROBLEM, str(error))
    else:
        yield from server.examine(connection, raw)


def _client_yaml(config: Path | None) -> tuple[Check, dict, Device | None]:
    """Return the check of this device's file, what it holds, and its `fedn_partial:` section if that is good."""
    if config is None:
        return Check("client.yaml", NOT_CHECKED, "there is none here; name this device's with --config"), {}, None
    raw: dict = {}
    try:
        raw = read_yaml(config)
        own = load_device(config)
    except FednPartialError as error:
        return Check("client.yaml", PROBLEM, str(error)), raw, None
    if not isinstance(raw.get("name"), str) or not raw["name"]:
        text = f"{config}: key 'name' is missing; give this device a name of its own"
        return Check("client.yaml", PROBLEM, text), raw, own
    return Check("client.yaml", OK, f"{config}: device {raw['name']}, working folder {own.workdir}"), raw, own
