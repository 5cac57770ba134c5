"""The kernel's files about the machine: whatever is in them, no parser raises or gives a number that cannot be."""

import random

import psutil
import pytest

from fedn_partial.client.doctor import device_checks
from fedn_partial.client.records import run_folder
from fedn_partial.client.simulation import workers
from fedn_partial.device import cgroup, monitor, sensors
from fedn_partial.device.monitor import ResourceMonitor

GOOD = {
    "meminfo": "MemTotal:        2027724 kB\nMemFree:  99 kB\nMemAvailable:     512000 kB\nSwapTotal:       0 kB\n",
    "membership": "11:memory:/a/b\n4:cpu,cpuacct:/a/b\n0::/a/b\n",
    "memory.max": "500000000\n",
    "memory.high": "400000000\n",
    "memory.current": "300000000\n",
    "memory.limit_in_bytes": "450000000\n",
    "memory.usage_in_bytes": "310000000\n",
    "memory.stat": "inactive_file 1000\ntotal_inactive_file 1000\nhierarchical_memory_limit 480000000\n",
    "memory.events": "low 0\noom_kill 3\n",
    "cpu.max": "50000 100000\n",
    "cpu.cfs_quota_us": "50000\n",
    "cpu.cfs_period_us": "100000\n",
    "cpu.stat": "usage_usec 123456\nuser_usec 1\n",
    "cpuacct.usage": "123456789\n",
    "type": "cpu-thermal\n",
    "temp": "48500\n",
    "load": "137\n",
    "in1_label": "VDD_IN\n",
    "in1_input": "5008\n",
    "curr1_input": "1250\n",
    "smaps_rollup": "Rss: 10 kB\nPss_Anon: 5 kB\nSwapPss: 0 kB\n",
    "smaps": "Rss: 10 kB\nPss: 5 kB\nAnonymous: 4 kB\nVmFlags: rd\n",
    "tegrastats": "RAM 2/7620MB GR3D_FREQ 61%@[624,611] cpu@45.5C gpu@43.906C tj@45.906C VDD_IN 4800mW/4750mW\n",
}
PIECES = ["", "\n", "\n\n\n", "\0" * 40, " ", "max", "-1", "0", "0 0", "9" * 400, "²", "٣", "1_0", "nan", "inf", "kB"]
PIECES += [":", "::", "/", "../../..", "MemTotal:", "MemAvailable: kB", "\ufffd", "cpu@C", "mW/mW", "%", "5" * 19]
PIECES += ["1e999", "VmFlags:"]


def garbage(chance: random.Random, name: str) -> bytes:
    """A file as it should be, with damage; or none of it."""
    text = GOOD[name]
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice(PIECES) + text[at + chance.randrange(12) :]
    kind = chance.randrange(6)
    if kind == 0:
        return chance.randbytes(chance.randrange(200))
    if kind == 1:
        return chance.choice(PIECES).encode()
    return text.encode()[: chance.randrange(len(text) + 1) if kind == 2 else None]


def may_be(value, low, high):
    return value is None or (low <= value <= high and value == value)


@pytest.mark.parametrize("seed", range(150))
def test_garbage_is_unknown(tmp_path, monkeypatch, seed):
    chance = random.Random(seed)

    def put(folder, *names):
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            if chance.random() < 0.9:
                (folder / name).write_bytes(garbage(chance, name))

    root = tmp_path / "cgroup"
    controllers = [name for name in GOOD if name.startswith(("memory.", "cpu"))]
    for folder in (root, root / "a", root / "a/b", *([root / "memory/a/b"] if seed % 2 else [])):
        put(folder, *controllers)
    put(tmp_path, "meminfo", "membership", "smaps_rollup", "smaps")
    put(tmp_path / "sys/class/thermal/thermal_zone0", "type", "temp")
    put(tmp_path / "sys/devices/gpu.0", "load")
    put(tmp_path / "sys/class/hwmon/hwmon0", "in1_label", "in1_input", "curr1_input")
    monkeypatch.setattr(cgroup, "MEMINFO", tmp_path / "meminfo")
    find = cgroup.find
    monkeypatch.setattr(cgroup, "find", lambda: find(str(root), str(tmp_path / "membership")))

    group = cgroup.find()
    large = 1024 * 10**20
    assert may_be(group.memory_limit(), 1, cgroup.UNLIMITED)
    assert may_be(group.memory_used(), 0, large) and may_be(group.memory_left(), 0, large)
    assert group.cpu_limit() is None or group.cpu_limit() > 0
    assert may_be(group.cpu_seconds(), 0, large)
    assert may_be(cgroup.available_memory(), 0, large) and may_be(cgroup.machine_memory(), 0, large)
    assert may_be(cgroup.memory_kills(), 0, large) and cgroup.processors() > 0
    assert workers.processors() >= 1 and run_folder.machine()
    device_checks.memory(device_checks.read_memory(), None)
    list(device_checks.swap(device_checks.read_memory()))
    line = garbage(chance, "tegrastats").decode(errors="replace")
    for reading in (sensors.parse_tegrastats(line), sensors.find(str(tmp_path), tegrastats=None).read()):
        assert all(may_be(reading[key], *sensors.VALID[key]) for key in sensors.KEYS)
    monkeypatch.setattr(monitor, "Path", lambda path: tmp_path)
    assert may_be(monitor.anonymous_memory([1]), 0, large)
    machine = monitor._Machine()
    for reading in (machine.read(False), machine.read(False)):
        assert may_be(reading["ram_used_mb"], 0, large) and may_be(reading["machine_cpu_percent"], 0, large)


@pytest.mark.parametrize("padding", ["\0" * 2048, "\n\n", "\n \n\0\0"], ids=["zero bytes", "blank lines", "both"])
def test_meminfo_of_a_container_is_read(tmp_path, monkeypatch, padding):
    """As LXC shows it on ARM; psutil raises for the blank lines, which ended doctor."""
    (tmp_path / "meminfo").write_text(padding + GOOD["meminfo"] + padding)
    monkeypatch.setattr(cgroup, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(cgroup, "find", lambda: cgroup.Cgroup((), (), ()))
    there = device_checks.read_memory()
    assert there == device_checks.Memory(2027724 * 1024, 512000 * 1024, 0, False)
    with ResourceMonitor() as watched:
        pass
    assert watched.summary()["ram_used_mb"] == pytest.approx((2027724 - 512000) * 1024 / 1e6, abs=0.01)


def test_swap_that_is_unknown_is_not_called_none(tmp_path, monkeypatch):
    monkeypatch.setattr(cgroup, "MEMINFO", tmp_path / "missing")
    monkeypatch.setattr(cgroup, "find", lambda: cgroup.Cgroup((), (), ()))
    there = device_checks.read_memory()
    assert (there.total, there.swap) == (None, None)
    assert not list(device_checks.swap(device_checks.Memory(10**9, 10**9, None, False)))


def test_a_period_of_zero_costs_nothing(tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text("50000 0\n")
    monkeypatch.setattr(cgroup, "find", lambda: cgroup.Cgroup((), (tmp_path,), ()))
    with ResourceMonitor() as watched:
        pass
    assert watched.summary()["samples"] == 2
    assert workers.processors() >= 1 and "processor" in run_folder.machine()


def test_cores_that_are_off_have_no_part_in_the_frequency(monkeypatch):
    def cpu_freq(percpu=False):
        cores = [psutil._ntuples.scpufreq(mhz, 0.0, 0.0) for mhz in (1500.0, 0.0, 1300.0, 0.0)]
        return cores if percpu else psutil._ntuples.scpufreq(sum(core.current for core in cores) / 4, 0.0, 0.0)

    monkeypatch.setattr(psutil, "cpu_freq", cpu_freq)
    with ResourceMonitor() as watched:
        pass
    assert watched.summary()["cpu_mhz"] == 1400
