"""Child processes that are surely gone when they should be."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
from pathlib import Path

import psutil

from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.forkserver import die_with_parent


def start(command: list[str], log: Path, env: dict, cwd: Path, tied: bool) -> psutil.Process:
    """Start `command` in a session of its own, with its output appended to `log`.

    Parameters
    ----------
    tied : whether it is to end when this process ends, however that ends. (Linux counts the thread that started
        it, so start tied processes from the main thread.)
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=(lambda: die_with_parent(signal.SIGTERM)) if tied else None,
        )
    return psutil.Process(process.pid)


def stop(processes: list[psutil.Process], patience: float = 5.0) -> None:
    """End `processes` and all their descendants: politely first, after `patience` seconds by force."""
    family = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            family += [process, *process.children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(family, timeout=patience)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def identity(process: psutil.Process) -> list:
    """Return what finds this very process again: its id alone may have gone to another one."""
    return [process.pid, process.create_time()]


def find(pid: int, create_time: float) -> psutil.Process | None:
    """Return the process with this identity, or None if it is gone."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if abs(process.create_time() - create_time) < 1 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


@contextlib.contextmanager
def alone(lock: Path, message: str):
    """Hold the file `lock` for this process alone; raise FednPartialError with `message` if another one holds it."""
    descriptor = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FednPartialError(message) from None
        yield
    finally:
        os.close(descriptor)


def is_alive(process: psutil.Process) -> bool:
    """Return whether `process` runs."""
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def bury(process: psutil.Process) -> str:
    """Kill what a process that ended left in its process group; return how it ended, as " (SIGKILL)", if known."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        code = process.wait(timeout=1)  # the threads of a killed process end one after the other
    except (psutil.Error, OSError):
        code = None
    if code is None:
        return ""
    return f" ({signal.Signals(-code).name})" if code < 0 else f" (exit code {code})"


def check_alive(process: psutil.Process, name: str, log: Path) -> None:
    """Raise FednPartialError with the end of its log if `process` is gone."""
    if is_alive(process):
        return
    raise FednPartialError(f"{name} has ended; the last lines of {log} are:\n{tail(log)}")


def tail(log: Path, lines: int = 8) -> str:
    """Return the last lines of a log file."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"
