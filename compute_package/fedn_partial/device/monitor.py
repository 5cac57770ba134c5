"""Resource monitor: CPU, memory and time of a task's process tree and its machine.

The monitor never raises; values that cannot be measured are None (shown as n/a).
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psutil

from fedn_partial.device import cgroup, sensors
from fedn_partial.runtime.atomic import append_text

MB = 1e6
SAMPLES_LIMIT = 10_000_000  # bytes of a samples file, after which it is rotated


class ResourceMonitor:
    """Context manager that measures one task.

    Parameters
    ----------
    interval : seconds between two samples.
    roots : process ids whose process trees are measured; this process if None.
    memory_roots : process ids whose trees' anonymous memory is measured at the end of each phase; `roots` if None.
    samples : JSON-lines file to which samples are appended, or None.
    labels : keys added to each sample, such as task and round.

    A sample holds: time (seconds since the epoch), rss_mb and cpu_percent of the process tree (100 is one processor);
    ram_used_mb, ram_percent, machine_cpu_percent, cpu_mhz of the machine, or of the control group if it is limited;
    gpu_percent, temperature_c, power_mw of the board (see ``sensors``). MB are 10**6 bytes.
    """

    def __init__(
        self,
        interval: float = 0.5,
        roots=None,
        samples: str | Path | None = None,
        labels: dict | None = None,
        memory_roots=None,
    ):
        self.interval = interval
        self.roots = roots or [os.getpid()]
        self.memory_roots = memory_roots or self.roots
        self.samples_path = Path(samples) if samples else None
        self.labels = labels or {}
        self.phases: dict[str, float] = {}
        self.memory: dict[str, float] = {}
        self._samples: list[dict] = []
        self._sampled_at = 0.0
        self._cpu_seconds: dict[int, float] = {}
        self._seconds_before: dict[int, float] = {}
        self._started = self._ended = time.monotonic()
        self._machine = _Machine()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> ResourceMonitor:
        self._started = time.monotonic()
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()
        self._ended = time.monotonic()
        self._write()

    @contextmanager
    def phase(self, name: str):
        """Measure the context as phase `name`; repeated phases accumulate."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - started
            memory = anonymous_memory(self.memory_roots)
            if memory is not None:
                self.memory[name] = max(self.memory.get(name, 0.0), memory / MB)

    def summary(self) -> dict:
        """Return the measurements of the task so far, for the update's metadata.

        Keys: seconds, phases ({name: seconds}), memory_mb ({name: anonymous memory at the end of that phase}) and
        memory_peak_mb, the highest of these, cpu_seconds and cpu_percent (mean) of the process tree, rss_peak_mb,
        ram_used_mb and ram_percent (highest sample), machine_cpu_percent (mean), cpu_mhz (mean), gpu_percent (mean),
        temperature_c (highest), power_mw (mean), samples (how many).
        """
        seconds = (time.monotonic() if not self._stop.is_set() else self._ended) - self._started
        cpu_seconds = sum(self._cpu_seconds.values()) if self._cpu_seconds else None
        peaks = [_peak_rss(pid) for pid in self.roots] + [self._highest("rss_mb")]
        return {
            "seconds": round(seconds, 3),
            "phases": {name: round(value, 3) for name, value in self.phases.items()},
            "memory_mb": {name: _rounded(value) for name, value in self.memory.items()},
            "memory_peak_mb": _rounded(max(self.memory.values(), default=None)),
            "cpu_seconds": _rounded(cpu_seconds),
            "cpu_percent": _rounded(100 * cpu_seconds / seconds if cpu_seconds is not None and seconds > 0 else None),
            "rss_peak_mb": _rounded(max((peak for peak in peaks if peak is not None), default=None)),
            "ram_used_mb": _rounded(self._highest("ram_used_mb")),
            "ram_percent": _rounded(self._highest("ram_percent")),
            "machine_cpu_percent": _rounded(self._mean("machine_cpu_percent")),
            "cpu_mhz": _rounded(self._mean("cpu_mhz")),
            "gpu_percent": _rounded(self._mean("gpu_percent")),
            "temperature_c": _rounded(self._highest("temperature_c")),
            "power_mw": _rounded(self._mean("power_mw")),
            "samples": len(self._samples),
        }

    def _values(self, key: str) -> list[float]:
        return [sample[key] for sample in self._samples if sample.get(key) is not None]

    def _highest(self, key: str) -> float | None:
        return max(self._values(key), default=None)

    def _mean(self, key: str) -> float | None:
        values = self._values(key)
        return sum(values) / len(values) if values else None

    def _run(self) -> None:
        while not self._stop.wait(self.interval):
            self._sample(patient=True)

    def _sample(self, patient: bool = False) -> None:
        """Take a sample; `patient` allows slow sensors, as the task does not wait."""
        try:
            before = sum(self._cpu_seconds.values())
            rss, now = self._measure_tree(), time.monotonic()
            sample = {"time": round(time.time(), 3), "rss_mb": _rounded(rss), **self._machine.read(patient)}
            sample["cpu_percent"] = None
            if self._samples:
                elapsed = now - self._sampled_at  # monotonic: NTP does not set it
                used = sum(self._cpu_seconds.values()) - before
                sample["cpu_percent"] = _rounded(100 * used / elapsed) if elapsed > 0 else None
            self._samples.append(sample)
            self._sampled_at = now
        except Exception:  # the monitor must never fail its task
            pass

    def _measure_tree(self) -> float | None:
        """Return the resident MB of the process tree, and record each process's CPU seconds since its first sample."""
        members: dict[int, psutil.Process] = {}
        for pid in self.roots:
            try:
                root = psutil.Process(pid)
                members.update({process.pid: process for process in (root, *root.children(recursive=True))})
            except psutil.Error:
                continue
        first = not self._samples
        rss = None
        for pid, process in members.items():
            try:
                times = process.cpu_times()
                seconds = times.user + times.system
                # Exclude the CPU seconds of processes from before the task.
                self._seconds_before.setdefault(pid, seconds if first else 0.0)
                self._cpu_seconds[pid] = seconds - self._seconds_before[pid]
                rss = (rss or 0.0) + process.memory_info().rss / MB
            except psutil.Error:
                continue
        return rss

    def _write(self) -> None:
        if self.samples_path is None:
            return
        try:
            self.samples_path.parent.mkdir(parents=True, exist_ok=True)
            if self.samples_path.exists() and self.samples_path.stat().st_size > SAMPLES_LIMIT:
                self.samples_path.replace(self.samples_path.with_suffix(".old.jsonl"))
            lines = (json.dumps({**self.labels, **sample}) + "\n" for sample in self._samples)
            append_text(self.samples_path, "".join(lines))
        except OSError:
            pass


def anonymous_memory(roots) -> int | None:
    """Return the anonymous memory in bytes of the process trees of `roots`, or None.

    Shared pages are counted once; swapped pages are included.
    """
    pids = set(roots)
    for root in roots:
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            pids.update(child.pid for child in psutil.Process(root).children(recursive=True))
    total = None
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, LookupError):
            total = (total or 0) + _anonymous_share(Path(f"/proc/{pid}"))
    return total


def _anonymous_share(process: Path) -> int:
    """Return the proportional anonymous memory of a process in bytes."""
    try:
        table = _kilobytes((process / "smaps_rollup").read_text())
        return 1024 * (table["Pss_Anon"] + table.get("SwapPss", 0))
    except (FileNotFoundError, KeyError):  # a kernel before 5.3
        pass
    total = 0.0
    for mapping in (process / "smaps").read_text().split("VmFlags:"):
        table = _kilobytes(mapping)
        if table.get("Rss"):
            total += table["Anonymous"] * table["Pss"] / table["Rss"]
        total += table.get("SwapPss", table.get("Swap", 0))
    return int(1024 * total)


def _kilobytes(text: str) -> dict[str, int]:
    rows = (line.split() for line in text.splitlines())
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) == 3 and row[2] == "kB" and len(row[1]) < 16}


class _Machine:
    """Memory, CPU load and frequency of the machine, or of its control group if limited, and its sensors."""

    def __init__(self):
        self._group = _or_none(cgroup.find) or cgroup.Cgroup((), (), ())
        self._memory_limit = _or_none(self._group.memory_limit)
        self._cpu_limit = _or_none(self._group.cpu_limit)
        self._last: tuple[float, float | None] | None = None
        self._board = _or_none(sensors.find) or sensors.Board()
        _or_none(psutil.cpu_percent)  # the first call only sets psutil's starting point

    def read(self, patient: bool) -> dict:
        used, percent = _or_none(self._memory) or (None, None)
        return {
            "ram_used_mb": _rounded(used),
            "ram_percent": _rounded(percent),
            "machine_cpu_percent": _rounded(_or_none(self._cpu_percent)),
            "cpu_mhz": _rounded(_or_none(_frequency)),
            **{key: _rounded(value) for key, value in (_or_none(lambda: self._board.read(patient)) or {}).items()},
        }

    def _memory(self) -> tuple[float, float] | None:
        """Return memory in use in MB and percent."""
        total = cgroup.host_memory("MemTotal")
        if self._memory_limit is not None and (total is None or self._memory_limit < total):
            used, total = self._group.memory_used(), self._memory_limit
        else:
            used = total - cgroup.host_memory("MemAvailable")
        return (used / MB, 100 * used / total) if used >= 0 else None

    def _cpu_percent(self) -> float | None:
        if self._cpu_limit is None:
            return psutil.cpu_percent()
        used, now = self._group.cpu_seconds(), time.monotonic()
        last, self._last = self._last, (now, used)
        if last is None or now <= last[0] or used < last[1]:
            return None
        return 100 * (used - last[1]) / (now - last[0]) / self._cpu_limit


def _or_none(measure):
    """Return the result of `measure`, or None if it fails on this machine."""
    try:
        return measure()
    except Exception:  # psutil raises many types
        return None


def _frequency() -> float | None:
    """Return the mean MHz of the online cores; psutil reports 0 for the others."""
    running = [core.current for core in psutil.cpu_freq(percpu=True) if core.current > 0]
    return sum(running) / len(running) if running else None


def _peak_rss(pid: int) -> float | None:
    """Return the peak resident MB of one process as recorded by Linux, or None."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / MB
    except (OSError, ValueError, LookupError):
        pass
    return None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
