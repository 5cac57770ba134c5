"""Limits and usage of this process's control groups, version 1 and version 2.

In a container psutil reports the host's memory and processors, the control group those of the container. Nothing here
raises: missing or invalid values are None.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

UNLIMITED = 1 << 60  # version 1 reports a number near 2**63 for no limit
MEMINFO = Path("/proc/meminfo")
_NUMBER = re.compile(r"[0-9]{1,20}")
_LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")  # above memory.high processes are throttled to a halt
_USAGE = ("memory.current", "memory.usage_in_bytes")  # in version 2, in version 1


@dataclass(frozen=True)
class Cgroup:
    """The folders of this process's control groups, from its own up to the visible root."""

    memory: tuple[Path, ...]
    cpu: tuple[Path, ...]
    cpuacct: tuple[Path, ...]

    def memory_limit(self) -> int | None:
        """Return the lowest memory limit in bytes, or None if there is none."""
        return _memory_limit(folder) if (folder := self._memory_limited()) else None

    def memory_used(self) -> int | None:
        """Return the bytes in use in the group with the lowest limit (or the process's own), or None.

        Inactive file cache is excluded, as in Docker's statistics.
        """
        limited = self._memory_limited()
        for folder in (limited,) if limited else self.memory:
            used = _memory_used(folder)
            if used is not None:
                return max(used - _file_cache(folder, "inactive"), 0)
        return None

    def memory_left(self) -> int | None:
        """Return the fewest bytes left below a limit, counting file cache as free, or None if there is no limit.

        That limit need not be the lowest, as other groups share a parent's.
        """
        left = []
        for folder in self.memory:
            limit, used = _memory_limit(folder), _memory_used(folder)
            if limit is not None and used is not None:
                left.append(max(limit - used + _file_cache(folder, "inactive", "active"), 0))
        return min(left, default=None)

    def _memory_limited(self) -> Path | None:
        # Of equal limits the outermost: in version 1 a group repeats its parents' limit in memory.stat.
        limited = [folder for folder in reversed(self.memory) if _memory_limit(folder) is not None]
        return min(limited, key=_memory_limit, default=None)

    def cpu_limit(self) -> float | None:
        """Return the lowest limit in processors, such as 0.5, or None if there is none."""
        limits = []
        for folder in self.cpu:
            words = _text(folder / "cpu.max").split()
            if len(words) != 2:
                words = [_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")]
            quota, period = map(_parsed, words)  # no limit is "max" or -1
            if quota and period:
                limits.append(quota / period)
        return min(limits, default=None)

    def cpu_seconds(self) -> float | None:
        """Return the processor seconds used by the group so far, or None."""
        for folder in self.cpuacct:
            usage = _table(folder / "cpu.stat").get("usage_usec")
            if usage is not None:
                return usage / 1e6
            usage = _number(folder / "cpuacct.usage")
            if usage is not None:
                return usage / 1e9
        return None


def available_memory() -> int | None:
    """Return the available memory in bytes (the lower of host and control group), or None if unknown."""
    return min((size for size in (host_memory("MemAvailable"), find().memory_left()) if size is not None), default=None)


def memory_kills() -> int | None:
    """Return how many processes the kernel has killed for memory, on the machine and in this process's control groups.

    None if it does not count them (before Linux 4.13).
    """
    groups = [folder / name for folder in find().memory for name in ("memory.events", "memory.oom_control")]
    counts = [_table(path).get("oom_kill") for path in [*groups, Path("/proc/vmstat")]]
    return sum(count or 0 for count in counts) if any(count is not None for count in counts) else None


def machine_memory() -> int | None:
    """Return the total memory in bytes (the lower of host and control group limit), or None if unknown."""
    return min((size for size in (host_memory("MemTotal"), find().memory_limit()) if size is not None), default=None)


def host_memory(key: str) -> int | None:
    """Return the value of `key` in /proc/meminfo, such as "MemTotal", in bytes, or None."""
    rows = [row for row in _rows(MEMINFO) if len(row) == 3 and row[0] == f"{key}:"]
    kibibytes = _parsed(rows[0][1]) if rows else None
    return None if kibibytes is None else kibibytes * 1024


def processors() -> float:
    """Return the number of processors of this process, by its affinity and control groups."""
    return min(len(os.sched_getaffinity(0)), find().cpu_limit() or float("inf"))


def find(root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> Cgroup:
    """Return the control groups of this process.

    Parameters
    ----------
    root : mount point of the control groups.
    membership : file that lists this process's groups.
    """
    paths = {"": "/"}
    for line in _text(Path(membership)).splitlines():
        _, _, line = line.partition(":")
        controllers, colon, path = line.partition(":")
        if colon and ".." not in Path(path).parts:  # ".." is outside the visible tree: use the mount
            paths |= dict.fromkeys(controllers.split(","), path)

    def folders(controller: str) -> tuple[Path, ...]:
        mounted = Path(root) / controller if os.path.isdir(Path(root) / controller) else Path(root)
        path = paths.get(controller, paths[""])
        own = mounted / path.lstrip("/")
        chain = [own, *own.parents]
        # In a container the path is the host's and does not exist; the mount itself is then the container's group.
        return tuple(folder for folder in chain if os.path.isdir(folder) and folder.is_relative_to(mounted))

    return Cgroup(memory=folders("memory"), cpu=folders("cpu"), cpuacct=folders("cpuacct"))


def _memory_limit(folder: Path) -> int | None:
    """Return a group's limit in bytes, in version 1 including parents invisible to a container."""
    limits = [_number(folder / name) for name in _LIMITS]
    limits.append(_table(folder / "memory.stat").get("hierarchical_memory_limit"))
    return min((limit for limit in limits if limit and limit < UNLIMITED), default=None)


def _memory_used(folder: Path) -> int | None:
    return next((used for name in _USAGE if (used := _number(folder / name)) is not None), None)


def _file_cache(folder: Path, *kinds: str) -> int:
    stat = _table(folder / "memory.stat")
    return sum(stat.get(f"total_{kind}_file", stat.get(f"{kind}_file", 0)) for kind in kinds)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").replace("\0", "")  # LXC on ARM pads files with zero bytes
    except (OSError, ValueError):
        return ""


def _number(path: Path) -> int | None:
    return _parsed(_text(path))


def _parsed(text: str) -> int | None:
    text = text.strip()
    return int(text) if _NUMBER.fullmatch(text) else None  # None for "max"


def _table(path: Path) -> dict[str, int]:
    rows = [(row[0], _parsed(row[1])) for row in _rows(path) if len(row) == 2]
    return {key: number for key, number in rows if number is not None}


def _rows(path: Path) -> list[list[str]]:
    return [line.split() for line in _text(path).splitlines()]
