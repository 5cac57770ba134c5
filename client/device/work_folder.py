"""The folder that a client works in: for this user alone, and for one client at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from fedn_partial.errors import FednPartialError
from fedn_partial.log import log

LOCK = "client.lock"


def claim(folder: Path, config: Path) -> int:
    """Make `folder` if need be, close it to other users, and lock it for this process.

    The folder of client.yaml itself keeps its mode: other things of the owner may lie there. What is written is closed
    in any case.

    Returns
    -------
    File descriptor of the lock, which holds until it is closed or this process ends, however that ends.

    Raises
    ------
    FednPartialError : another process has it.
    """
    os.umask(0o077)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 4096).decode(errors="replace").strip() or "another process"
        os.close(lock)
        raise FednPartialError(
            f"{folder} is the working folder of a client that runs ({holder}); stop that one, or name another folder "
            "as 'workdir:' in client.yaml"
        ) from None
    os.ftruncate(lock, 0)
    os.write(lock, f"process {os.getpid()}, of {config}\n".encode())
    if folder.resolve() != config.parent:
        try:
            folder.chmod(0o700)
        except OSError as error:
            log(f"{folder} cannot be closed to other users: {error.strerror}")
    return lock
