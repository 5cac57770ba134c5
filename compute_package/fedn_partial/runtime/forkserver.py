"""Fork server that imports TensorFlow once per client instead of once per request.

``start`` launches a server that imports TensorFlow and runs no operation. ``request`` sends it a request over a socket
that only this user can open; each request runs in a forked child, whose memory is released when it ends. The server
ends with the FEDn client that started it.

Standard library only, so that the entry points start fast.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import time

from fedn_partial.log import log
from fedn_partial.runtime import launch

STATE = ".state"  # folder in the compute package, closed to other users
SOCKET = os.path.join(STATE, "server.sock")
KILL_TIMEOUT = 5  # seconds until a killed request has ended
CHILD_POLL = 0.1  # seconds between two checks whether a request without a server has ended
POLL = 1.0  # seconds between two checks whether the client still runs


def request(kind: str, model: str, output: str, timeout: float | None = None) -> dict | None:
    """Execute a request in the server; the current folder is the compute package.

    Parameters
    ----------
    kind : "train" or "validate". model, output : absolute paths.
    timeout : seconds after which the request is killed; None for no limit.

    Returns
    -------
    ``{"exit": code}``, ``{"signal": number}`` if the child was killed, ``{"timed_out": True}`` after the timeout, or
    ``{"lost": True}`` if the server ended; None if there is no server.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(SOCKET)
        except OSError:
            return None
        request = {"kind": kind, "input": model, "output": output, "pid": os.getpid()}
        connection.settimeout(timeout)
        try:
            connection.sendall(json.dumps(request).encode() + b"\n")
            reply = connection.makefile().readline()
        except TimeoutError:
            _cancel(connection)
            return {"timed_out": True}
        except OSError:
            reply = ""
    return json.loads(reply) if reply else {"lost": True}


def _cancel(connection: socket.socket) -> None:
    """Have the server kill this request's child, and wait for its end, as it may be writing."""
    connection.settimeout(KILL_TIMEOUT)
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        connection.recv(4096)


def was_started() -> bool:
    """Return whether a server of the compute package runs or was killed."""
    return os.path.exists(SOCKET)


def start(launcher: launch.Launcher) -> None:
    """Start the server for the compute package in the current folder and return immediately.

    Requests wait until TensorFlow is imported.
    """
    os.makedirs(STATE, mode=0o700, exist_ok=True)
    os.chmod(STATE, 0o700)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(SOCKET)
    os.chmod(SOCKET, 0o600)
    listener.listen()
    if os.fork():
        listener.close()
        return
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 1
    try:
        import_tensorflow()
        _Server(listener, launcher).run()
        code = 0
    except Exception as error:
        log(f"fork server: {type(error).__name__}: {error}")
        with contextlib.suppress(OSError):
            os.unlink(SOCKET)  # a restart would fail as well; each request then reports the error
    finally:
        os._exit(code)


def run_alone(
    kind: str, model: str, output: str, launcher: launch.Launcher | None, timeout: float | None = None
) -> dict:
    """Execute a request in a child that imports TensorFlow itself; return the same as ``request``."""
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        _run({"kind": kind, "input": model, "output": output, "pid": parent}, launcher, prepare=_save_memory)
    if timeout is None:
        return _reply(os.waitpid(pid, 0)[1])
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return _reply(status)
        time.sleep(CHILD_POLL)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return {"timed_out": True}


def _save_memory() -> None:
    """Reduce this process's memory; call before the import of TensorFlow."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return_freed_memory()
    # Optional imports of Keras: 80 MB that no request needs.
    for unused in ("matplotlib", "pandas", "PIL", "scipy", "sklearn"):
        sys.modules.setdefault(unused, None)


def import_tensorflow() -> None:
    """Import the modules of a request. No operation may run before the fork: TensorFlow's threads do not survive it."""
    _save_memory()
    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    from fedn_partial import models  # noqa: F401
    from fedn_partial.exchange import encoding  # noqa: F401
    from fedn_partial.runtime import device_round, task  # noqa: F401
    from fedn_partial.training import evaluation, local_training  # noqa: F401

    gc.freeze()  # keeps the children's garbage collector from copying shared pages


def return_freed_memory() -> None:
    """Make the C library return freed blocks of 1 MiB or more to the system, and use few arenas."""
    with contextlib.suppress(OSError, AttributeError):
        allocator = ctypes.CDLL(None)
        allocator.mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD
        allocator.mallopt(-8, 2)  # M_ARENA_MAX


class _Server:
    """Server that runs each request in a forked child."""

    def __init__(self, listener: socket.socket, launcher: launch.Launcher):
        self.listener = listener
        self.launcher = launcher
        self.launcher_start = _start_time(launcher.pid)
        self.inode = os.stat(SOCKET).st_ino
        self.sources = [listener]
        with contextlib.suppress(OSError, AttributeError):  # an older kernel: the check every POLL seconds remains
            self.sources.append(os.pidfd_open(launcher.pid))
        self.children: dict[int, socket.socket] = {}
        self.wakeup, wakeup_writer = os.pipe()
        os.set_blocking(wakeup_writer, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup_writer)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def run(self) -> None:
        while self._is_needed():
            ready, _, _ = select.select([*self.sources, self.wakeup, *self.children.values()], [], [], POLL)
            if self.wakeup in ready:
                os.read(self.wakeup, 512)
            self._reap()
            for pid, connection in list(self.children.items()):
                if connection in ready:  # closed by the entry point before the reply
                    os.kill(pid, signal.SIGKILL)
            if self.listener in ready:
                self._accept()
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
        if self._has_socket():
            os.unlink(SOCKET)

    def _is_needed(self) -> bool:
        """Return whether the client still runs and has not started another server."""
        start = self.launcher_start
        return start is not None and _start_time(self.launcher.pid) == start and self._has_socket()

    def _has_socket(self) -> bool:
        try:
            return os.stat(SOCKET).st_ino == self.inode
        except OSError:
            return False

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", credentials)[1] != os.getuid():
            connection.close()
            return
        connection.settimeout(10)
        try:
            request = json.loads(connection.makefile().readline())
        except (OSError, ValueError):
            connection.close()
            return
        pid = os.fork()
        if pid:
            self.children[pid] = connection
        else:
            _run(request, self.launcher, prepare=self._reset_signals)

    def _reset_signals(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def _reap(self) -> None:
        for pid in list(self.children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            with self.children.pop(pid) as connection, contextlib.suppress(OSError):
                connection.sendall(json.dumps(_reply(status)).encode() + b"\n")


def _run(request: dict, launcher: launch.Launcher | None, prepare) -> None:
    """Execute a request in this process, its forked child, and exit."""
    code = 1
    try:
        die_with_parent(signal.SIGKILL)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")  # out of memory, the kernel kills this process and not FEDn's client
        # The client removes the request's folder; the server's may exist for months.
        os.environ["TMPDIR"] = os.path.dirname(request["output"])
        tempfile.tempdir = None  # Python caches the folder
        prepare()
        from fedn_partial.runtime import task

        task.run(task.Request(**request, launcher=launcher))
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _reply(status: int) -> dict:
    """Return the reply about a child that ended with the wait status `status`."""
    code = os.waitstatus_to_exitcode(status)
    return {"exit": code} if code >= 0 else {"signal": -code}


def _start_time(pid: int) -> str | None:
    """Return the start time of process `pid` in clock ticks, which tells reused ids apart, or None if it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def die_with_parent(number: int) -> None:
    """Make Linux send signal `number` to this process when its parent ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, number)  # 1 is PR_SET_PDEATHSIG
