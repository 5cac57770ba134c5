"""Find the FEDn client process that launched this package, and its Python, configuration file and name.

FEDn 0.33 passes only file names to an entry point, and runs the first ``python3`` on the PATH. Reading the parent
process's command line makes a plain ``fedn client start -in client.yaml`` work, even in a virtual environment that is
not activated. Standard library only.
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
    python : its interpreter.
    config : path of its client.yaml, or None.
    name : client name on its command line, or None.
    """

    pid: int
    python: str
    config: str | None
    name: str | None


def find_launcher() -> Launcher | None:
    """Return the process that launched this script, skipping shells, or None."""
    pid = os.getppid()
    while pid > 1 and os.path.basename(_command(pid)[:1][0] if _command(pid) else "") in ("bash", "sh"):
        pid = _parent(pid)
    command = _command(pid)
    if pid <= 1 or not command:
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-in", "--init", "--config", dest="config")
    parser.add_argument("-n", "--name", dest="name")
    options, _ = parser.parse_known_args(command[command.index("start") + 1 :] if "start" in command else [])
    config = os.path.join(os.readlink(f"/proc/{pid}/cwd"), options.config) if options.config else None
    return Launcher(pid, command[0], config, options.name)


def device_config(launcher: Launcher | None) -> str | None:
    """Return the path of this device's client.yaml: from the environment, or the client's command line."""
    return os.environ.get(CONFIG_VARIABLE) or (launcher.config if launcher else None)


def client_name(config: str | None, launcher: Launcher | None) -> str | None:
    """Return this client's name: from its command line, or ``name`` or ``client_id`` in client.yaml."""
    if launcher and launcher.name:
        return launcher.name
    if config is None:
        return None
    from fedn_partial.settings.client_file import load_client_file

    file = load_client_file(config)
    return file.name or file.client_id


def use_client_python(launcher: Launcher | None) -> None:
    """Re-execute this script with the client's Python if this one lacks TensorFlow."""
    if importlib.util.find_spec("tensorflow") is not None:
        return
    if launcher and os.path.isabs(launcher.python) and launcher.python != sys.executable:
        os.execv(launcher.python, [launcher.python, *sys.argv])
    raise SystemExit(
        f"[fedn-partial] {sys.executable} has no TensorFlow. Activate the virtual environment in which "
        "fedn-partial is installed and restart the client."
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
