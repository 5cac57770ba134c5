"""Who started this compute package: the FEDn client above us, its python, its client.yaml, its name.

FEDn 0.33 tells an entry point nothing but file names, and runs whatever ``python3`` comes first on the PATH. So
that a plain ``fedn client start -in client.yaml`` works, also from a virtual environment that is not activated,
its command line is read from the process above. Standard library only.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from dataclasses import dataclass

CONFIG_VARIABLE = "FEDN_PARTIAL_CLIENT"


@dataclass(frozen=True)
class Launcher:
    """The FEDn client that runs this package.

    Attributes
    ----------
    pid : its process id.
    python : the interpreter it runs on.
    config : path of the client.yaml it was given, or None.
    name : as given on its command line, or None.
    """

    pid: int
    python: str
    config: str | None
    name: str | None


def find_launcher() -> Launcher | None:
    """Return the process that started this script, the shell between them left out, or None."""
    pid = os.getppid()
    while pid > 1 and os.path.basename(_command(pid)[:1][0] if _command(pid) else "") in ("bash", "sh"):
        pid = _parent(pid)
    command = _command(pid)
    if pid <= 1 or not command:
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-in", "--init", "--config", dest="config")
    parser.add_argument("-n", "--name", dest="name")
    given, _ = parser.parse_known_args(command[command.index("start") + 1 :] if "start" in command else [])
    config = os.path.join(os.readlink(f"/proc/{pid}/cwd"), given.config) if given.config else None
    return Launcher(pid, command[0], config, given.name)


def device_config(launcher: Launcher | None) -> str | None:
    """Return the path of this device's client.yaml: from the environment, else from the client's command line."""
    return os.environ.get(CONFIG_VARIABLE) or (launcher.config if launcher else None)


def client_name(config: str | None, launcher: Launcher | None) -> str | None:
    """Return this client's name: from the client's command line, else ``name`` or ``client_id`` in client.yaml."""
    if launcher and launcher.name:
        return launcher.name
    if config is None:
        return None
    from fedn_partial.settings.client_file import load_client_file

    file = load_client_file(config)
    return file.name or file.client_id


def use_right_python(launcher: Launcher | None) -> None:
    """Start this script again with the client's own python, if the present one has no TensorFlow."""
    if importlib.util.find_spec("tensorflow") is not None:
        return
    if launcher and os.path.isabs(launcher.python) and launcher.python != sys.executable:
        os.execv(launcher.python, [launcher.python, *sys.argv])
    raise SystemExit(
        f"[fedn-partial] {sys.executable} has no TensorFlow. Activate the virtual environment into which "
        "fedn-partial was installed, then start the client again."
    )


def _command(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().split("\0")[:-1]
    except OSError:
        return []


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0
