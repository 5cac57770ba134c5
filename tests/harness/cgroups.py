"""A memory-limited control group for a benchmark or a test, of either version; needs root."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

from fedn_partial.device import cgroup


class NoControlGroup(Exception):
    """This machine lets nobody make a control group here; the message says why."""


class MemoryGroup:
    """A control group with a memory limit in bytes and no swap; what runs in it when it ends is killed.

    Attributes
    ----------
    peak : highest anonymous memory seen so far, in bytes: what the kernel cannot drop.
    """

    def __init__(self, limit: int):
        self.peak = 0
        self.path = _make(f"fedn-partial-{os.getpid()}-{time.monotonic_ns()}")
        self._version2 = (self.path / "memory.max").exists()
        try:
            self._write("memory.max" if self._version2 else "memory.limit_in_bytes", limit)
        except OSError as error:
            raise NoControlGroup(f"cannot limit the memory of {self.path}: {error}") from None
        with contextlib.suppress(OSError):  # absent where the kernel does not count swap
            self._write(
                "memory.swap.max" if self._version2 else "memory.memsw.limit_in_bytes", 0 if self._version2 else limit
            )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> MemoryGroup:
        self._thread.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self._stop.set()
        self._thread.join()
        for _ in range(100):
            for pid in (self.path / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    os.kill(int(pid), 9)
            with contextlib.suppress(OSError):
                self.path.rmdir()
                return
            time.sleep(0.1)

    def add(self, pid: int) -> None:
        """Move a process into the group; its children will be born there."""
        self._write("cgroup.procs", pid)

    def kills(self) -> int:
        """Return how many processes of the group the kernel has killed for memory."""
        text = (self.path / ("memory.events" if self._version2 else "memory.oom_control")).read_text()
        return int(dict(line.split() for line in text.splitlines())["oom_kill"])

    def _write(self, name: str, value: int) -> None:
        (self.path / name).write_text(str(value))

    def _sample(self) -> None:
        key = "anon" if self._version2 else "total_rss"
        while not self._stop.wait(0.02):
            with contextlib.suppress(OSError, KeyError, ValueError):
                lines = (self.path / "memory.stat").read_text().splitlines()
                self.peak = max(self.peak, int(dict(line.split() for line in lines)[key]))


def _make(name: str) -> Path:
    if os.geteuid() != 0:
        raise NoControlGroup("making a control group needs root")
    folders = cgroup.find().memory
    if not folders:
        raise NoControlGroup("this machine has no memory control groups")
    root = folders[-1]
    # In version 2 a group with processes in it can have no limited groups below it, so go to the top.
    parent = root if (root / "cgroup.controllers").exists() else folders[0]
    try:
        if parent == root and "memory" not in (root / "cgroup.subtree_control").read_text().split():
            (root / "cgroup.subtree_control").write_text("+memory")
    except OSError as error:
        if (root / "cgroup.controllers").exists():
            raise NoControlGroup(f"the memory controller cannot be had: {error}") from None
    path = parent / name
    try:
        path.mkdir()
    except OSError as error:
        raise NoControlGroup(f"cannot make {path}: {error}") from None
    return path
