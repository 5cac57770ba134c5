"""What the kernel's control groups allow this process, and what they count: version 1 and version 2.

In a container psutil shows the host's memory and processors. The control group shows the container's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

UNLIMITED = 1 << 60  # version 1 writes a number near 2**63 where there is no limit
_USAGE = ("memory.current", "memory.usage_in_bytes")  # in version 2, in version 1


@dataclass(frozen=True)
class Cgroup:
    """The folders of this process's control groups, from its own up to the root of what it can see."""

    memory: tuple[Path, ...]
    cpu: tuple[Path, ...]
    cpuacct: tuple[Path, ...]

    def memory_limit(self) -> int | None:
        """Return the lowest memory limit in bytes, or None if there is none."""
        return _memory_limit(folder) if (folder := self._memory_limited()) else None

    def memory_used(self) -> int | None:
        """Return the bytes in use in the group with the lowest limit (or the own one), or None.

        As Docker counts: file cache that is in no use is left out.
        """
        limited = self._memory_limited()
        for folder in (limited,) if limited else self.memory:
            for name in _USAGE:
                used = _number(folder / name)
                if used is not None:
                    stat = _table(folder / "memory.stat")
                    return used - stat.get("total_inactive_file", stat.get("inactive_file", 0))
        return None

    def memory_left(self) -> int | None:
        """Return the bytes up to the lowest limit, file cache counted as free, or None if there is no limit."""
        folder = self._memory_limited()
        if folder is None:
            return None
        used = next((n for n in (_number(folder / name) for name in _USAGE) if n is not None), None)
        if used is None:
            return None
        stat = _table(folder / "memory.stat")
        cache = sum(stat.get(f"total_{kind}_file", stat.get(f"{kind}_file", 0)) for kind in ("inactive", "active"))
        return max(_memory_limit(folder) - used + cache, 0)

    def _memory_limited(self) -> Path | None:
        limited = [folder for folder in self.memory if _memory_limit(folder) is not None]
        return min(limited, key=_memory_limit, default=None)

    def cpu_limit(self) -> float | None:
        """Return the lowest limit in processors (0.5 is half of one), or None if there is none."""
        limits = []
        for folder in self.cpu:
            words = _text(folder / "cpu.max").split()
            quota, period = (
                words if len(words) == 2 else (_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))
            )
            if quota.strip().isdigit() and period.strip().isdigit():
                limits.append(int(quota) / int(period))
        return min(limits, default=None)

    def cpu_seconds(self) -> float | None:
        """Return the processor seconds used in the group so far, or None."""
        for folder in self.cpuacct:
            usage = _table(folder / "cpu.stat").get("usage_usec")
            if usage is not None:
                return usage / 1e6
            usage = _number(folder / "cpuacct.usage")
            if usage is not None:
                return usage / 1e9
        return None


def available_memory() -> int | None:
    """Return the bytes that could still be had without swapping, on the machine or in the control group, or None."""
    machine = next((int(row[1]) * 1024 for row in _rows(Path("/proc/meminfo")) if row[0] == "MemAvailable:"), None)
    return min((size for size in (machine, find().memory_left()) if size is not None), default=None)


def memory_kills() -> int | None:
    """Return how many processes the kernel has killed for memory, here and in this process's control groups.

    None if it does not count them (before Linux 4.13).
    """
    groups = [folder / name for folder in find().memory for name in ("memory.events", "memory.oom_control")]
    counts = [_table(path).get("oom_kill") for path in [*groups, Path("/proc/vmstat")]]
    return sum(count or 0 for count in counts) if any(count is not None for count in counts) else None


def machine_memory() -> int | None:
    """Return the bytes of memory that this process may use: the machine's, or less by its control group; or None."""
    total = next((int(row[1]) * 1024 for row in _rows(Path("/proc/meminfo")) if row[0] == "MemTotal:"), None)
    return min((size for size in (total, find().memory_limit()) if size is not None), default=None)


def find(root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> Cgroup:
    """Return the control groups of this process.

    Parameters
    ----------
    root : where the control groups are mounted.
    membership : the kernel's list of this process's groups.
    """
    places = {"": "/"}
    for line in _text(Path(membership)).splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            places[controller] = path

    def folders(controller: str) -> tuple[Path, ...]:
        mounted = Path(root) / controller if (Path(root) / controller).is_dir() else Path(root)
        path = places.get(controller, places[""])
        below = mounted / path.lstrip("/")
        chain = [below, *below.parents]
        # Inside a container the path is the host's and does not exist; the mount itself is then the container's group.
        return tuple(folder for folder in chain if folder.is_dir() and (folder == mounted or mounted in folder.parents))

    return Cgroup(memory=folders("memory"), cpu=folders("cpu"), cpuacct=folders("cpuacct"))


def _memory_limit(folder: Path) -> int | None:
    limits = [_number(folder / name) for name in ("memory.max", "memory.limit_in_bytes")]
    return min((limit for limit in limits if limit is not None and limit < UNLIMITED), default=None)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None  # "max" is no number


def _table(path: Path) -> dict[str, int]:
    return {row[0]: int(row[1]) for row in _rows(path) if len(row) == 2 and row[1].isdigit()}


def _rows(path: Path) -> list[list[str]]:
    return [line.split() for line in _text(path).splitlines()]
