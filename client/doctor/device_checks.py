"""Checks of this machine: processor, installed packages, memory, disk space and the shard.

Facts about the machine are parameters with defaults, so that tests can set them.
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
BASE_MB = 230  # FEDn's client and TensorFlow, used where their memory cannot be measured
SMALL_MODEL_MB, VGG16_MB = 40, 100  # training one layer, on top of that ('fedn-partial plan' predicts it)
MODEL_BYTES = 59e6  # VGG16 of the paper, the largest model of this package
SMALL_MACHINE = 2.5e9  # bytes of memory below which swap is recommended
IMPORT_TIMEOUT = 600  # seconds; TensorFlow takes a minute or two from a slow memory card


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Check:
    text = ".".join(map(str, version))
    if (3, 10) <= version[:2] <= (3, 12):
        return Check("Python", OK, text)
    way_out = "FEDn 0.33 and TensorFlow 2.20 need 3.10 to 3.12 (install one with uv or pyenv)"
    return Check("Python", PROBLEM, f"{text}; {way_out}")


def architecture(machine: str = platform.machine(), bits: int = 64 if sys.maxsize > 2**32 else 32) -> Check:
    text = f"{machine}, {bits} bits"
    if machine in ("x86_64", "aarch64") and bits == 64:
        return Check("architecture", OK, text)
    way_out = "TensorFlow wheels exist for x86_64 and aarch64 only: install a 64-bit system with a 64-bit Python"
    return Check("architecture", PROBLEM, f"{text}; {way_out}")


def glibc(library: tuple[str, str] | None = None) -> Check:
    name, version = library or platform.libc_ver()
    number = tuple(int(part) for part in version.split(".") if part.isdigit())
    if name != "glibc" or number < (2, 17):
        text = f"{name} {version}" if name else "not glibc (musl?)"
        return Check("C library", PROBLEM, f"{text}; the wheels need glibc 2.17 or later: use Debian or Ubuntu")
    if number < (2, 27):
        return Check("C library", WARNING, f"glibc {version}; current numpy wheels need 2.27, pip installs older ones")
    return Check("C library", OK, f"glibc {version}")


def processor(machine: str = platform.machine(), cpuinfo: Path = Path("/proc/cpuinfo")) -> Check:
    try:
        lines = [line.partition(":") for line in cpuinfo.read_text(errors="replace").splitlines()]
    except OSError as error:
        return Check("processor", NOT_CHECKED, f"{cpuinfo}: {error.strerror}")
    values = {key.strip(): value.strip() for key, _, value in lines}
    text = f"{os.cpu_count()} x {values.get('model name') or values.get('CPU part') or machine}"
    if machine == "x86_64" and "avx" not in values.get("flags", "").split():
        return Check("processor", PROBLEM, f"{text}: no AVX, which TensorFlow's wheels need; use another machine")
    return Check("processor", OK, text)


def packages(root: str) -> Check:
    """Check that the requirements of the package `root` are installed, including those of its dependencies."""
    try:
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name
    except ModuleNotFoundError:  # a dependency of TensorFlow
        return Check("packages", PROBLEM, f"packaging is missing: reinstall {root} with pip")

    checked, problems, queue = set(), set(), [Requirement(root)]
    while queue:
        requirement = queue.pop()
        try:
            package = importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            problems.add(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(package.version, prereleases=True):
            problems.add(f"{requirement.name} {package.version} does not satisfy {requirement.specifier}")
        key = (canonicalize_name(requirement.name), *sorted(requirement.extras))
        if key not in checked:
            checked.add(key)
            extras = [{"extra": extra} for extra in (*requirement.extras, "")]
            dependencies = map(Requirement, package.requires or ())
            queue += [item for item in dependencies if not item.marker or any(map(item.marker.evaluate, extras))]
    if problems:
        return Check("packages", PROBLEM, f"{'; '.join(sorted(problems))}: reinstall {root} with pip")
    names = ("fedn", "tensorflow-cpu", "tensorflow", "numpy", "protobuf", "grpcio")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names if (name,) in checked)
    return Check("packages", OK, f"{versions}; all {len({key[0] for key in checked})} packages are compatible")


@dataclass(frozen=True)
class Imported:
    """Result of an import; `mb` is the memory that it takes in MB, None if unknown."""

    check: Check
    mb: float | None = None


def imports(name: str, code: str, machine: str = platform.machine(), timeout: float = IMPORT_TIMEOUT) -> Imported:
    """Run the imports in `code` in a process of its own: a package built for another processor kills the process."""
    started = time.monotonic()
    try:
        done = plan.run_imports(code, timeout=timeout)
    except subprocess.TimeoutExpired:
        text = f"not imported after {timeout:.0f} s; check the speed of the disk and the free memory"
        return Imported(Check(name, PROBLEM, text))
    if done.returncode:
        return Imported(Check(name, PROBLEM, _why_not_imported(done, machine)))
    size = done.stdout.strip().rpartition("\n")[2]
    mb = int(size) / MB if size.isdigit() else None
    text = f"imported in {time.monotonic() - started:.1f} s"
    return Imported(Check(name, OK, f"{text}, takes {mb:.0f} MB of memory" if mb else text), mb)


def _why_not_imported(done: subprocess.CompletedProcess, machine: str) -> str:
    way_out = "reinstall fedn-partial with pip in a new virtual environment"
    if done.returncode > 0:
        last = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        return f"{last}; {way_out}"
    number = signal.Signals(-done.returncode)
    if number == signal.SIGILL and machine == "aarch64":
        # Some versions of OpenBLAS misidentify processors, among them the Jetson Nano's Cortex-A57.
        way_out = "set OPENBLAS_CORETYPE=ARMV8 in the client's environment and run doctor with it again"
    elif number == signal.SIGILL:
        way_out = "this build needs instructions that the processor lacks (AVX); use another machine"
    elif number == signal.SIGKILL:
        way_out = "probably out of memory; stop other programs or add swap"
    return f"the process was killed by {number.name}; {way_out}"


@dataclass(frozen=True)
class Memory:
    """Memory and swap in bytes, of the control group if it is `limited`, else of the machine; None if unknown."""

    total: int | None
    available: int | None
    swap: int | None
    limited: bool


def read_memory() -> Memory:
    limited = cgroup.find().memory_limit() is not None
    swap_bytes = 0 if limited else cgroup.host_memory("SwapTotal")  # the host's swap is not the control group's
    return Memory(cgroup.machine_memory(), cgroup.available_memory(), swap_bytes, limited)


def memory(reading: Memory, base_mb: float | None) -> Check:
    """Check the memory; `base_mb` is what the imports take."""
    if reading.total is None or reading.available is None:
        return Check("memory", NOT_CHECKED, "this system does not report it")
    total, available, base_mb = reading.total / MB, reading.available / MB, base_mb or BASE_MB
    text = f"{available:,.0f} of {total:,.0f} MB free; FEDn's client and TensorFlow take {base_mb:.0f} MB"
    training = f"training another {SMALL_MODEL_MB} MB for a small model, at least {VGG16_MB} MB for VGG16"
    if reading.swap is not None and total + reading.swap / MB < base_mb + SMALL_MODEL_MB:
        return Check("memory", PROBLEM, f"{text}, {training}: add memory or swap")
    if available < base_mb + VGG16_MB:
        return Check("memory", WARNING, f"{text}, {training}: stop other programs, such as a desktop")
    return Check("memory", OK, f"{text}; 'fedn-partial plan' predicts what can be trained in the rest")


def swap(reading: Memory) -> Iterator[Check]:
    """Check the swap of a machine with little memory; control groups, which cannot add swap, are not checked."""
    if reading.limited or reading.total is None or reading.swap is None or reading.total > SMALL_MACHINE:
        return
    if reading.swap:
        yield Check("swap", OK, f"{reading.swap / MB:,.0f} MB")
    else:
        way_out = "fallocate -l 2G /swapfile && chmod 600 /swapfile && mkswap /swapfile && swapon /swapfile"
        yield Check("swap", WARNING, f"none: a short peak of memory kills the training; as root: {way_out}")


def disk(workdir: Path, free: int | None = None) -> Check:
    """Check the disk space for a client's files in `workdir`; `free` overrides the measured bytes."""
    folder = _existing(workdir)
    # The monitor's samples, a global model, an update, and its residuals (error feedback).
    needed = 2 * SAMPLES_LIMIT + 3 * MODEL_BYTES
    free = shutil.disk_usage(folder).free if free is None else free
    text = f"{workdir}: {free / MB:,.0f} MB free, up to {needed / MB:.0f} MB needed"
    way_out = "set 'workdir:' in client.yaml to a folder on another disk"
    if not os.access(folder, os.W_OK):
        return Check("working folder", PROBLEM, f"{folder} is not writable for this user; change its owner")
    if free < needed:
        return Check("working folder", PROBLEM, f"{text}; free some space, or {way_out}")
    if _is_in_memory(folder):
        return Check("working folder", WARNING, f"{text}; its file system is in memory: {way_out}")
    return Check("working folder", OK, text)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _is_in_memory(folder: Path) -> bool:
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[path] for path in (folder, *folder.parents) if path in mounts), "") in ("tmpfs", "ramfs")


def data(folder: str) -> Check:
    from fedn_partial.data.shard import open_shard  # numpy

    try:
        shard = open_shard(folder)
    except FednPartialError as error:
        return Check("data", PROBLEM, f"{error}; docs/DATA.md describes a shard")
    counts = f"{len(shard.y_train):,} training and {len(shard.y_test):,} test examples, {len(shard.classes)} classes"
    return Check("data", OK, f"{folder}: {counts}")
