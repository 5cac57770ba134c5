"""Lock a client's working folder: for one user and one client at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from fedn_partial.errors import FednPartialError
from fedn_partial.log import log

LOCK = "client.lock"


def claim(folder: Path, config: Path) -> int:
    """Create `folder` if needed, restrict it to this user, and lock it for this process.

    If client.yaml lies in `folder`, its mode is kept, as it may contain other files; new files are restricted anyway.

    Returns
    -------
    File descriptor of the lock, held until it is closed or this process ends.

    Raises
    ------
    FednPartialError : another process holds the lock.
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
            f"{folder} is in use by a running client ({holder}); stop it, or set 'workdir:' in client.yaml to "
            "another folder"
        ) from None
    os.ftruncate(lock, 0)
    os.write(lock, f"process {os.getpid()}, of {config}\n".encode())
    if folder.resolve() != config.parent:
        try:
            folder.chmod(0o700)
        except OSError as error:
            log(f"cannot restrict {folder} to this user: {error.strerror}")
    return lock
