"""Start, identify and stop child processes."""

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
    """Start `command` in a session of its own and append its output to `log`.

    Parameters
    ----------
    tied : whether the kernel ends it when this process ends. Start tied processes from the main thread, as Linux
        ends them with the thread that started them.
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


def stop(processes: list[psutil.Process], timeout: float = 5.0) -> None:
    """Terminate `processes`; kill them and their descendants if they are alive after `timeout` seconds."""
    family = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            family += [process, *process.children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(family, timeout=timeout)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def identity(process: psutil.Process) -> list:
    """Return [pid, creation time], which identifies `process` even if its pid is reused."""
    return [process.pid, process.create_time()]


def find(pid: int, create_time: float) -> psutil.Process | None:
    """Return the running process with this ``identity``, or None."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if abs(process.create_time() - create_time) < 1 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


@contextlib.contextmanager
def locked(lock: Path, message: str):
    """Lock the file `lock`; raise FednPartialError with `message` if another process has locked it."""
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
    """Return whether `process` is running."""
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def clean_up(process: psutil.Process) -> str:
    """Kill the process group of an ended process and return how it ended, as " (SIGKILL)", or "" if unknown."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        code = process.wait(timeout=1)  # the threads of a killed process may take a moment to end
    except (psutil.Error, OSError):
        code = None
    if code is None:
        return ""
    return f" ({signal.Signals(-code).name})" if code < 0 else f" (exit code {code})"


def check_alive(process: psutil.Process, name: str, log: Path) -> None:
    """Raise FednPartialError with the end of `log` if `process` has ended."""
    if is_alive(process):
        return
    raise FednPartialError(f"{name} has ended; the last lines of {log} are:\n{tail(log)}")


def tail(log: Path, lines: int = 8) -> str:
    """Return the last lines of a log file."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"
