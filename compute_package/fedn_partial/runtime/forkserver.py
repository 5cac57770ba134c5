"""TensorFlow is imported once per client, not once per request.

``start`` leaves a small server behind that has TensorFlow imported and has run no operation. ``request`` hands it a
request over a socket that only this user can open; each request runs in a forked child, whose memory goes back
to the system when it ends. The server ends with the FEDn client that started it.

This module imports the standard library only, so that the thin entry points stay thin.
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
KILL_PATIENCE = 5  # seconds that a killed request has to be gone
CHILD_POLL = 0.1  # seconds between two looks at whether a request without a server has ended
POLL = 1.0  # seconds between two looks at whether the client still lives


def request(kind: str, model: str, output: str, timeout: float | None = None) -> dict | None:
    """Let the server carry out a request; the current folder is the compute package.

    Parameters
    ----------
    kind : "train" or "validate". model, output : absolute paths.
    timeout : seconds after which the request is killed, None for never.

    Returns
    -------
    ``{"exit": code}``, or ``{"signal": number}`` if the child was killed, ``{"timed_out": True}`` if that was for its
    timeout, or ``{"lost": True}`` if the server went away; None if there is no server.
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
            _let_it_be_killed(connection)
            return {"timed_out": True}
        except OSError:
            reply = ""
    return json.loads(reply) if reply else {"lost": True}


def _let_it_be_killed(connection: socket.socket) -> None:
    """Tell the server that nobody waits for this request, and wait until its child is gone: it may be writing."""
    connection.settimeout(KILL_PATIENCE)
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        connection.recv(4096)


def was_started() -> bool:
    """Return whether a server was started in the compute package, which then was killed, or still runs."""
    return os.path.exists(SOCKET)


def start(launcher: launch.Launcher) -> None:
    """Start the server for the compute package in the current folder, and return at once.

    Requests that come while TensorFlow is still being imported wait for it.
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
            os.unlink(SOCKET)  # another would end so as well; each request on its own says why
    finally:
        os._exit(code)


def run_alone(
    kind: str, model: str, output: str, launcher: launch.Launcher | None, timeout: float | None = None
) -> dict:
    """Carry out a request in a child that imports TensorFlow itself and ends; return the same as ``request``."""
    asker = os.getpid()
    pid = os.fork()
    if not pid:
        _run({"kind": kind, "input": model, "output": output, "pid": asker}, launcher, prepare=_save_memory)
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
    """Let this process hold little: call it before TensorFlow is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return_freed_memory()
    # Where Keras finds these it imports them: 80 MB that no request needs.
    for unused in ("matplotlib", "pandas", "PIL", "scipy", "sklearn"):
        sys.modules.setdefault(unused, None)


def import_tensorflow() -> None:
    """Import what a request needs. No operation may run before the fork: TensorFlow's threads do not survive it."""
    _save_memory()
    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    from fedn_partial import models  # noqa: F401
    from fedn_partial.exchange import encoding  # noqa: F401
    from fedn_partial.runtime import device_round, task  # noqa: F401
    from fedn_partial.training import evaluation, local_training  # noqa: F401

    gc.freeze()  # the children's garbage collector need not look at, and so copy, what was there before them


def return_freed_memory() -> None:
    """Let the C library give freed blocks of a megabyte or more back to the system, and keep no heap a thread."""
    with contextlib.suppress(OSError, AttributeError):
        allocator = ctypes.CDLL(None)
        allocator.mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD
        allocator.mallopt(-8, 2)  # M_ARENA_MAX


class _Server:
    """Accepts requests and runs each in a child of its own."""

    def __init__(self, listener: socket.socket, launcher: launch.Launcher):
        self.listener = listener
        self.launcher = launcher
        self.born = _birth(launcher.pid)
        self.inode = os.stat(SOCKET).st_ino
        self.watched = [listener]
        with contextlib.suppress(OSError, AttributeError):  # an older kernel: then the look every POLL seconds must do
            self.watched.append(os.pidfd_open(launcher.pid))
        self.children: dict[int, socket.socket] = {}
        self.wakeup, written = os.pipe()
        os.set_blocking(written, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(written)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def run(self) -> None:
        while self._is_wanted():
            ready, _, _ = select.select([*self.watched, self.wakeup, *self.children.values()], [], [], POLL)
            if self.wakeup in ready:
                os.read(self.wakeup, 512)
            self._reap()
            for pid, connection in list(self.children.items()):
                if connection in ready:  # it has said all it had to say: the asker is gone
                    os.kill(pid, signal.SIGKILL)
            if self.listener in ready:
                self._accept()
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
        if self._has_socket():
            os.unlink(SOCKET)

    def _is_wanted(self) -> bool:
        """Whether the client still lives, and has not started another server."""
        return self.born is not None and _birth(self.launcher.pid) == self.born and self._has_socket()

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
            _run(request, self.launcher, prepare=self._forget_signals)

    def _forget_signals(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def _reap(self) -> None:
        for pid in list(self.children):
            found, status = os.waitpid(pid, os.WNOHANG)
            if not found:
                continue
            with self.children.pop(pid) as connection, contextlib.suppress(OSError):
                connection.sendall(json.dumps(_reply(status)).encode() + b"\n")


def _run(request: dict, launcher: launch.Launcher | None, prepare) -> None:
    """Carry out a request in this process, a child that was made for it, and end it."""
    code = 1
    try:
        die_with_parent(signal.SIGKILL)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")  # if the memory runs out, this process is the one to go, and not FEDn's client
        # The request's own, which the client removes; the server's may be there for months.
        os.environ["TMPDIR"] = os.path.dirname(request["output"])
        tempfile.tempdir = None  # Python keeps the folder that an import has asked for
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
    """Return what to tell the asker about a child that ended with `status`, as the kernel gave it."""
    code = os.waitstatus_to_exitcode(status)
    return {"exit": code} if code >= 0 else {"signal": -code}


def _birth(pid: int) -> str | None:
    """Return when process `pid` began, in the kernel's ticks, or None if it is gone: a number may be used again."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def die_with_parent(number: int) -> None:
    """Ask Linux to send this process signal `number` when its parent ends, however that ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, number)  # 1 is PR_SET_PDEATHSIG
