"""Checks of the machine by 'fedn-partial doctor', each with and without a problem."""

import os
import sys
from pathlib import Path

import pytest
from fedn_servers.doctor_server import write_test_shard

from fedn_partial.client.doctor import device_checks
from fedn_partial.client.doctor.check import NOT_CHECKED, OK, PROBLEM, WARNING
from fedn_partial.client.doctor.device_checks import Memory


@pytest.mark.parametrize(
    ("version", "state"),
    [((3, 9, 18), PROBLEM), ((3, 10, 0), OK), ((3, 12, 9), OK), ((3, 13, 0), PROBLEM), ((2, 7, 18), PROBLEM)],
)
def test_python(version, state):
    check = device_checks.python(version)
    assert check.state == state and ".".join(map(str, version)) in check.text
    assert state == OK or "3.10 to 3.12" in check.text


@pytest.mark.parametrize(
    ("machine", "bits", "state"),
    [("x86_64", 64, OK), ("aarch64", 64, OK), ("aarch64", 32, PROBLEM), ("armv7l", 32, PROBLEM), ("i686", 32, PROBLEM)],
)
def test_architecture(machine, bits, state):
    check = device_checks.architecture(machine, bits)
    assert check.state == state and (state == OK or "64-bit system" in check.text)


@pytest.mark.parametrize(
    ("library", "state", "words"),
    [
        (("glibc", "2.31"), OK, "2.31"),
        (("glibc", "2.27"), OK, "2.27"),  # JetPack 4.6
        (("glibc", "2.23"), WARNING, "older"),
        (("glibc", "2.12"), PROBLEM, "Debian"),
        (("", ""), PROBLEM, "musl"),
    ],
)
def test_c_library(library, state, words):
    check = device_checks.glibc(library)
    assert check.state == state and words in check.text


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "state", "words"),
    [
        ("x86_64", "model name\t: Xeon\nflags\t\t: fpu sse4_2 avx avx2\n", OK, "Xeon"),
        ("x86_64", "model name\t: Celeron J1900\nflags\t\t: fpu sse4_2 avxx\n", PROBLEM, "Celeron J1900: no AVX"),
        ("aarch64", "Features\t: fp asimd crc32\nCPU part\t: 0xd07\n", OK, "0xd07"),
        ("x86_64", None, NOT_CHECKED, "No such file"),
    ],
)
def test_processor(tmp_path, machine, cpuinfo, state, words):
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    check = device_checks.processor(machine, tmp_path / "cpuinfo")
    assert check.state == state and words in check.text


def test_what_is_installed_here_fits_together():
    check = device_checks.packages("fedn-partial")
    assert check.state == OK, check.text
    assert "fedn 0.33" in check.text and "2.20" in check.text


def install(folder, name, version, requires=()):
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {text}" for text in requires)]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))


NEEDS = ("dt-sql<2.1", "dt-net[tls]>=1", "dt-win; sys_platform == 'win32'", "dt-dev; extra == 'dev'")
INSTALLED = {
    "all there": ({"dt-sql": "2.0.9", "dt-net": "1.5", "dt-tls": "3.0"}, OK, "all 4 packages are compatible"),
    "too new": ({"dt-sql": "2.1.0", "dt-net": "1.5", "dt-tls": "3"}, PROBLEM, "dt-sql 2.1.0 does not satisfy <2.1"),
    "missing": ({"dt-net": "1.5", "dt-tls": "3.0"}, PROBLEM, "dt-sql is missing"),
    "needed by what is needed": (
        {"dt-sql": "2", "dt-net": "1", "dt-tls": "4"},
        PROBLEM,
        "dt-tls 4 does not satisfy ==3.*",
    ),
    "an extra": ({"dt-sql": "2", "dt-net": "1"}, PROBLEM, "dt-tls is missing"),
    "a pre-release": ({"dt-sql": "2.0rc1", "dt-net": "1", "dt-tls": "3"}, OK, "are compatible"),
}


@pytest.mark.parametrize(("there", "state", "words"), INSTALLED.values(), ids=INSTALLED)
def test_versions(tmp_path, monkeypatch, there, state, words):
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "dt-app", "1.0", NEEDS)
    for name, version in there.items():
        needs = ("dt-tls==3.*; extra == 'tls'", "dt-app") if name == "dt-net" else ()
        install(tmp_path, name, version, needs)
    check = device_checks.packages("dt-app")
    assert check.state == state and words in check.text
    assert state == OK or "reinstall dt-app" in check.text


def test_versions_where_not_even_what_compares_them_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    check = device_checks.packages("fedn-partial")
    assert check.state == PROBLEM and "packaging is missing" in check.text


KILL = "import os, signal; os.kill(os.getpid(), signal.{})"
IMPORTS = {
    "good": ("held = b'x' * 30_000_000", "x86_64", OK, "MB of memory"),
    "missing": ("import no_such_module", "x86_64", PROBLEM, "No module named 'no_such_module'; reinstall fedn-partial"),
    "illegal instruction, Jetson": (KILL.format("SIGILL"), "aarch64", PROBLEM, "SIGILL; set OPENBLAS_CORETYPE=ARMV8"),
    "illegal instruction, PC": (KILL.format("SIGILL"), "x86_64", PROBLEM, "killed by SIGILL; this build needs"),
    "memory": (KILL.format("SIGKILL"), "x86_64", PROBLEM, "killed by SIGKILL; probably out of memory"),
    "crash": (KILL.format("SIGSEGV"), "aarch64", PROBLEM, "killed by SIGSEGV; reinstall"),
    "stuck": ("import time; time.sleep(60)", "x86_64", PROBLEM, "not imported after 3 s"),
}


@pytest.mark.parametrize(("code", "machine", "state", "words"), IMPORTS.values(), ids=IMPORTS)
def test_an_import_in_a_process_of_its_own(code, machine, state, words):
    found = device_checks.imports("TensorFlow", code, machine, timeout=3 if "sleep" in code else 60)
    assert found.check.state == state and words in found.check.text
    assert found.mb is None if state == PROBLEM else 30 < found.mb < 80


MEMORY = {
    "plenty": (Memory(4_000_000_000, 3_000_000_000, 0, False), OK, "3,000 of 4,000 MB free"),
    "free memory is short": (Memory(2_000_000_000, 250_000_000, 0, False), WARNING, "stop other programs"),
    "enough for a small model": (
        Memory(270_000_000, 265_000_000, 0, False),
        WARNING,
        "another 40 MB for a small model",
    ),
    "too little": (Memory(250_000_000, 240_000_000, 0, False), PROBLEM, "add memory or swap"),
    "too little, but for the swap": (Memory(250_000_000, 240_000_000, 10**9, False), WARNING, "stop other programs"),
    "unknown": (Memory(None, None, 0, False), NOT_CHECKED, "does not report it"),
}


@pytest.mark.parametrize(("there", "state", "words"), MEMORY.values(), ids=MEMORY)
def test_memory(there, state, words):
    check = device_checks.memory(there, base_mb=220.0)
    assert check.state == state and words in check.text
    assert state == NOT_CHECKED or "TensorFlow take 220 MB" in check.text


def test_memory_beside_imports_that_could_not_be_measured():
    assert "TensorFlow take 230 MB" in device_checks.memory(MEMORY["plenty"][0], None).text


def test_memory_of_this_machine():
    there = device_checks.read_memory()
    assert 0 < there.available <= there.total


@pytest.mark.parametrize(
    ("there", "states"),
    [
        (Memory(2_000_000_000, 1, 0, False), [WARNING]),
        (Memory(2_000_000_000, 1, 1_000_000_000, False), [OK]),
        (Memory(8_000_000_000, 1, 0, False), []),
        (Memory(2_000_000_000, 1, 0, True), []),
        (Memory(None, None, 0, False), []),
    ],
    ids=["small, none", "small, some", "large", "control group", "unknown"],
)
def test_swap(there, states):
    checks = list(device_checks.swap(there))
    assert [check.state for check in checks] == states
    assert states != [WARNING] or "mkswap" in checks[0].text


def test_disk(tmp_path):
    work = tmp_path / "not yet" / "there"
    plenty = device_checks.disk(work, free=10**9)
    # 20 MB of samples, 59 MB of remainders, two models of 59 MB
    assert plenty.state == OK and "1,000 MB free, up to 256 MB needed" in plenty.text
    full = device_checks.disk(work, free=255 * 10**6)
    assert full.state == PROBLEM and "'workdir:' in client.yaml" in full.text


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="no /dev/shm here")
def test_models_that_would_lie_in_memory():
    found = device_checks.disk(Path("/dev/shm/work"), free=10**9)
    assert found.state == WARNING and "file system is in memory" in found.text


def test_a_folder_of_another_user(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    found = device_checks.disk(tmp_path / "work")
    assert found.state == PROBLEM and "change its owner" in found.text


def test_data(tmp_path):
    assert device_checks.data(str(tmp_path / "none")).state == PROBLEM
    write_test_shard(tmp_path / "data")
    check = device_checks.data(str(tmp_path / "data"))
    assert check.state == OK and "6 training and 2 test examples, 2 classes" in check.text
    (tmp_path / "data" / "x_test.npy").write_bytes(b"no array")
    check = device_checks.data(str(tmp_path / "data"))
    assert check.state == PROBLEM and "damaged" in check.text and "docs/DATA.md" in check.text
