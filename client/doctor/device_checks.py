"""Whether this machine can run a client: what it is, what is installed, how much room there is, its data.

Facts that a test cannot have otherwise are parameters.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from fedn_partial.client.doctor.check import NOT_CHECKED, OK, PROBLEM, WARNING, Check
from fedn_partial.client.profiling import plan
from fedn_partial.device import cgroup
from fedn_partial.device.monitor import SAMPLES_LIMIT
from fedn_partial.errors import FednPartialError

MB = 1e6
BASE_MB = 230  # of FEDn's client and TensorFlow, where it cannot be measured
SMALL_MODEL_MB, VGG16_MB = 40, 100  # what a request takes besides, with one layer ('fedn-partial plan' predicts it)
MODEL_BYTES = 59e6  # VGG16 of the paper: the largest model that comes with this package
SMALL_MACHINE = 2.5e9  # bytes of memory, below which swap is missed
IMPORT_PATIENCE = 600  # seconds; TensorFlow takes a minute or two from a slow memory card


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Check:
    told = ".".join(map(str, version))
    if (3, 10) <= version[:2] <= (3, 12):
        return Check("Python", OK, told)
    return Check("Python", PROBLEM, f"{told}; FEDn 0.33 and TensorFlow 2.20 need 3.10 to 3.12 (uv or pyenv bring one)")


def architecture(machine: str = platform.machine(), bits: int = 64 if sys.maxsize > 2**32 else 32) -> Check:
    told = f"{machine}, {bits} bits"
    if machine in ("x86_64", "aarch64") and bits == 64:
        return Check("architecture", OK, told)
    return Check(
        "architecture",
        PROBLEM,
        f"{told}; TensorFlow is built for x86_64 and aarch64: install a 64-bit system (on a Raspberry Pi its 64-bit "
        "one) with a 64-bit Python",
    )


def glibc(library: tuple[str, str] | None = None) -> Check:
    name, version = library or platform.libc_ver()
    number = tuple(int(part) for part in version.split(".") if part.isdigit())
    if name != "glibc" or number < (2, 17):
        told = f"{name} {version}" if name else "not glibc (musl?)"
        return Check("C library", PROBLEM, f"{told}; the wheels need glibc 2.17: take Debian, Ubuntu or the like")
    if number < (2, 27):
        return Check("C library", WARNING, f"glibc {version}; numpy's newest wheels need 2.27, pip takes older ones")
    return Check("C library", OK, f"glibc {version}")


def processor(machine: str = platform.machine(), cpuinfo: Path = Path("/proc/cpuinfo")) -> Check:
    try:
        lines = [line.partition(":") for line in cpuinfo.read_text(errors="replace").splitlines()]
    except OSError as error:
        return Check("processor", NOT_CHECKED, f"{cpuinfo}: {error.strerror}")
    values = {key.strip(): value.strip() for key, _, value in lines}
    told = f"{os.cpu_count()} x {values.get('model name') or values.get('CPU part') or machine}"
    if machine == "x86_64" and "avx" not in values.get("flags", "").split():
        return Check("processor", PROBLEM, f"{told}: no AVX, which TensorFlow's wheels need; take another machine")
    return Check("processor", OK, told)


def packages(root: str) -> Check:
    """Check the versions of everything that the package `root`, and what it needs, ask for."""
    try:
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name
    except ModuleNotFoundError:  # TensorFlow brings it
        return Check("packages", PROBLEM, f"packaging is missing: install {root} anew with pip")

    seen, wrong, waiting = set(), set(), [Requirement(root)]
    while waiting:
        wanted = waiting.pop()
        try:
            found = importlib.metadata.distribution(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.add(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(found.version, prereleases=True):
            wrong.add(f"{wanted.name} is {found.version}, {wanted.specifier} is needed")
        asked = (canonicalize_name(wanted.name), *sorted(wanted.extras))
        if asked not in seen:
            seen.add(asked)
            extras = [{"extra": extra} for extra in (*wanted.extras, "")]
            needed = map(Requirement, found.requires or ())
            waiting += [need for need in needed if not need.marker or any(map(need.marker.evaluate, extras))]
    if wrong:
        return Check("packages", PROBLEM, f"{'; '.join(sorted(wrong))}: install {root} anew with pip")
    names = ("fedn", "tensorflow-cpu", "tensorflow", "numpy", "protobuf", "grpcio")
    told = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names if (name,) in seen)
    return Check("packages", OK, f"{told}; all {len({asked[0] for asked in seen})} fit together")


@dataclass(frozen=True)
class Imported:
    """The result of an import, and the MB of memory that it takes, if that is known."""

    check: Check
    mb: float | None = None


def imports(name: str, code: str, machine: str = platform.machine(), patience: float = IMPORT_PATIENCE) -> Imported:
    """Import in a process of its own: what is built for another processor kills the process."""
    started = time.monotonic()
    try:
        done = plan.run_imports(code, timeout=patience)
    except subprocess.TimeoutExpired:
        text = f"not imported after {patience:.0f} s; is the disk that slow, or the memory that full?"
        return Imported(Check(name, PROBLEM, text))
    if done.returncode:
        return Imported(Check(name, PROBLEM, _why_not_imported(done, machine)))
    size = done.stdout.strip().rpartition("\n")[2]
    mb = int(size) / MB if size.isdigit() else None
    told = f"imported in {time.monotonic() - started:.1f} s"
    return Imported(Check(name, OK, f"{told}, takes {mb:.0f} MB of memory" if mb else told), mb)


def _why_not_imported(done: subprocess.CompletedProcess, machine: str) -> str:
    if done.returncode > 0:
        last = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        return f"{last}; install fedn-partial anew with pip, in a fresh virtual environment"
    number = signal.Signals(-done.returncode)
    way_out = "install fedn-partial anew with pip, in a fresh virtual environment"
    if number == signal.SIGILL and machine == "aarch64":
        # OpenBLAS has taken processors, the Jetson Nano's Cortex-A57 among them, for what they are not.
        way_out = "set OPENBLAS_CORETYPE=ARMV8 in the client's environment, and try again with it"
    elif number == signal.SIGILL:
        way_out = "it is built for a processor with more instructions (AVX); take another machine"
    elif number == signal.SIGKILL:
        way_out = "most likely for memory; stop other programs, or add swap"
    return f"its process was killed by {number.name}; {way_out}"


@dataclass(frozen=True)
class Memory:
    """Bytes of memory that there are and that are free, of the machine or of its control group if that is `limited`."""

    total: int | None
    available: int | None
    swap: int | None
    limited: bool


def read_memory() -> Memory:
    limited = cgroup.find().memory_limit() is not None
    swapped = 0 if limited else cgroup.host_memory("SwapTotal")  # a control group has swap of its own, or none
    return Memory(cgroup.machine_memory(), cgroup.available_memory(), swapped, limited)


def memory(there: Memory, base_mb: float | None) -> Check:
    """Check the memory, `base_mb` of which imports take."""
    if there.total is None or there.available is None:
        return Check("memory", NOT_CHECKED, "this system does not tell")
    total, available, base_mb = there.total / MB, there.available / MB, base_mb or BASE_MB
    told = f"{available:,.0f} of {total:,.0f} MB free; FEDn's client and TensorFlow take {base_mb:.0f}"
    more = f"training {SMALL_MODEL_MB} more with a small model, {VGG16_MB} at least with VGG16"
    if there.swap is not None and total + there.swap / MB < base_mb + SMALL_MODEL_MB:
        return Check("memory", PROBLEM, f"{told}, {more}: add memory, or swap")
    if available < base_mb + VGG16_MB:
        return Check("memory", WARNING, f"{told}, {more}: stop what else runs, a desktop for example")
    return Check("memory", OK, f"{told}; what can be trained in the rest, 'fedn-partial plan' tells")


def swap(there: Memory) -> Iterator[Check]:
    """Check the swap of a small machine; say nothing of others, and of control groups, which cannot add any."""
    if there.limited or there.total is None or there.swap is None or there.total > SMALL_MACHINE:
        return
    if there.swap:
        yield Check("swap", OK, f"{there.swap / MB:,.0f} MB")
    else:
        way_out = "fallocate -l 2G /swapfile && chmod 600 /swapfile && mkswap /swapfile && swapon /swapfile"
        yield Check("swap", WARNING, f"none: what does not fit for a moment is killed; as root: {way_out}")


def disk(workdir: Path, free: int | None = None) -> Check:
    """Check the room for what a client keeps in `workdir`; `free` : bytes there, if not this machine's."""
    place = _existing(workdir)
    # Samples; a model that came and an update that goes; what codec int8 rounded off.
    size = 2 * SAMPLES_LIMIT + 3 * MODEL_BYTES
    room = shutil.disk_usage(place).free if free is None else free
    told = f"{workdir}: {room / MB:,.0f} MB free, up to {size / MB:.0f} needed"
    other = "name a folder on another disk as 'workdir:' in client.yaml"
    if not os.access(place, os.W_OK):
        return Check("working folder", PROBLEM, f"{place} cannot be written to by this user; change its owner")
    if room < size:
        return Check("working folder", PROBLEM, f"{told}; free some, or {other}")
    if _is_in_memory(place):
        return Check("working folder", WARNING, f"{told}; it lies in memory: {other}")
    return Check("working folder", OK, told)


def _existing(folder: Path) -> Path:
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def _is_in_memory(folder: Path) -> bool:
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[place] for place in (folder, *folder.parents) if place in mounts), "") in ("tmpfs", "ramfs")


def data(folder: str) -> Check:
    from fedn_partial.data.shard import open_shard  # numpy

    try:
        shard = open_shard(folder)
    except FednPartialError as error:
        return Check("data", PROBLEM, f"{error}; docs/DATA.md says what a shard is")
    counts = f"{len(shard.y_train):,} examples to train, {len(shard.y_test):,} to test, {len(shard.classes)} classes"
    return Check("data", OK, f"{folder}: {counts}")
