"""Addresses and ports of a local network's processes."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from fedn_partial.errors import FednPartialError

PORTS = {"controller": 8092, "combiner": 12080, "hooks": 12081, "storage": 9000}  # FEDn's default ports
PUBLIC = ("controller", "combiner")  # the processes that devices connect to
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def choose_port(name: str, previous: int | None, any_port: bool, folder: Path) -> int:
    """Return the port of the process `name`.

    Parameters
    ----------
    previous : port of the last start, which is kept, as devices and FEDn know it; None if there was none.
    any_port : whether to take any free port, as several runs may start at once.
    folder : the network's folder.

    Raises
    ------
    FednPartialError : `previous` is in use.
    """
    if previous is None:
        return PORTS[name] if not any_port and _is_free(PORTS[name]) else _free_port()
    if not _is_free(previous):
        raise FednPartialError(
            f"port {previous} of the {name} of {folder} is in use by another program; stop that program, or start a "
            "network in another folder"
        )
    return previous


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def answers(host: str, port: int) -> bool:
    """Return whether `host` accepts connections on `port`."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def reachable(host: str) -> str:
    """Return the address under which clients reach a process that listens on `host`."""
    return _own_address() if host in ("0.0.0.0", "::") else host


def _own_address() -> str:
    """Return this machine's address in its network; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"


def check_address(host: str) -> None:
    """Raise FednPartialError if this machine cannot listen on `host`."""
    try:
        family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as listener:
            listener.bind(address)
    except OSError as error:
        raise FednPartialError(f"--listen {host}: not an address of this machine ({error.strerror or error})") from None
