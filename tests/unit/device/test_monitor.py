"""The monitor against work of known cost, and the control groups against trees as kernels show them."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from fedn_partial.device import cgroup, monitor, sensors
from fedn_partial.device.monitor import MB, ResourceMonitor, anonymous_memory

V1_UNLIMITED = "9223372036854771712\n"
KEYS = {
    *("seconds", "phases", "cpu_seconds", "cpu_percent", "rss_peak_mb", "memory_mb", "memory_peak_mb"),
    *("ram_used_mb", "ram_percent", "machine_cpu_percent", "cpu_mhz", "samples"),
    *("gpu_percent", "temperature_c", "power_mw"),
}

# Holds as many bytes and burns as many processor seconds as it is told, says so, and waits for its end.
WORK = """
import sys, time
held = b"x" * int(sys.argv[1])
while time.process_time() < float(sys.argv[2]): pass
print("done", flush=True)
sys.stdin.read()
"""


@contextmanager
def worker(held, seconds):
    command = [sys.executable, "-c", WORK, str(held), str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "done\n"
        yield process
        process.stdin.close()


@pytest.fixture
def ended():
    """The id of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def tree(folder, membership, files):
    """Make a tree of control groups and find this process in it."""
    root = folder / "cgroup"
    root.mkdir()
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (folder / "membership").write_text(membership)
    return cgroup.find(str(root), str(folder / "membership"))


@pytest.mark.parametrize(
    ("membership", "files", "limit"),
    [
        ("0::/a/b", {"a/b/memory.max": "5000\n", "a/memory.max": "max\n"}, 5000),
        ("0::/a/b", {"a/b/memory.max": "max\n", "a/memory.max": "max\n"}, None),
        ("0::/a/b", {"a/b/memory.max": "max\n", "a/memory.max": "7000\n"}, 7000),
        ("0::/a/b", {"a/b/memory.max": "9000\n", "a/memory.max": "7000\n"}, 7000),
        ("0::/a/b", {"a/b/memory.max": "max\n", "c/memory.max": "10\n"}, None),
        ("0::/", {"memory.max": "6000\n"}, 6000),
        ("0::/host/path", {"memory.max": "6000\n"}, 6000),
        ("0::/", {"cgroup.procs": ""}, None),
        ("4:memory:/a/b", {"memory/a/b/memory.limit_in_bytes": "5000\n"}, 5000),
        ("4:memory:/a/b", {"memory/a/b/memory.limit_in_bytes": V1_UNLIMITED}, None),
        (
            "4:memory:/a/b",
            {"memory/a/b/memory.limit_in_bytes": V1_UNLIMITED, "memory/a/memory.limit_in_bytes": "7000\n"},
            7000,
        ),
        ("4:memory:/docker/1f", {"memory/memory.limit_in_bytes": "6000\n"}, 6000),
        ("4:memory:/a\n1:cpu:/b\n0::/c", {"memory/a/memory.limit_in_bytes": "5000\n", "unified/c/x": ""}, 5000),
        ("4:memory:/a\n", {"memory/b/memory.limit_in_bytes": "5000\n"}, None),
        ("", {"memory.max": "6000\n"}, 6000),
        ("0::/a", {"a/memory.max": "max\n", "a/memory.high": "5000\n"}, 5000),
        ("0::/a/b", {"a/b/memory.max": "9000\n", "a/memory.high": "7000\n"}, 7000),
        ("0::/a", {"a/memory.max": "max\n", "a/memory.swap.max": "10\n", "a/memory.high": "max\n"}, None),
        (
            "4:memory:/docker/1f",
            {
                "memory/memory.limit_in_bytes": V1_UNLIMITED,
                "memory/memory.stat": "hierarchical_memory_limit 6000\nhierarchical_memsw_limit 5000\n",
            },
            6000,
        ),
        ("0::/../outside", {"memory.max": "6000\n"}, 6000),
    ],
    ids=[
        *("v2", "v2 unlimited", "v2 parent", "v2 lowest", "v2 other group", "v2 root", "v2 container", "v2 nothing"),
        *("v1", "v1 unlimited", "v1 parent", "v1 container", "v1 hybrid", "v1 other group", "no membership"),
        *("v2 high", "v2 parent high", "v2 swap", "v1 parent that is not seen", "v2 outside of the namespace"),
    ],
)
def test_memory_limit(tmp_path, membership, files, limit):
    assert tree(tmp_path, membership, files).memory_limit() == limit


@pytest.mark.parametrize(
    ("membership", "files", "limit"),
    [
        ("0::/a", {"a/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a", {"a/cpu.max": "50000 0\n"}, None),
        ("2:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "50000\n", "cpu/a/cpu.cfs_period_us": "0\n"}, None),
        ("0::/a", {"a/cpu.max": "max 100000\n"}, None),
        ("0::/a/b", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b", {"a/b/cpu.max": "200000 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/host", {"cpu.max": "25000 100000\n"}, 0.25),
        ("2:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "50000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 0.5),
        ("2:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, None),
        ("2:cpu,cpuacct:/host", {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "25000\n"}, 2.0),
        ("0::/", {"cgroup.procs": ""}, None),
    ],
)
def test_processor_limit(tmp_path, membership, files, limit):
    assert tree(tmp_path, membership, files).cpu_limit() == limit


@pytest.mark.parametrize(
    ("membership", "files", "used"),
    [
        ("0::/a", {"a/memory.current": "900\n", "a/memory.stat": "anon 5\ninactive_file 200\n"}, 700),
        ("0::/a", {"a/memory.current": "900\n"}, 900),
        (
            "4:memory:/a",
            {
                "memory/a/memory.usage_in_bytes": "900\n",
                "memory/a/memory.stat": "inactive_file 1\ntotal_inactive_file 300\n",
            },
            600,
        ),
        ("0::/host", {"memory.current": "900\n"}, 900),
        ("0::/a", {"a/memory.max": "900\n"}, None),
    ],
)
def test_memory_used(tmp_path, membership, files, used):
    assert tree(tmp_path, membership, files).memory_used() == used


def test_memory_left_is_what_the_tightest_group_leaves(tmp_path):
    files = {"a/memory.max": "2000\n", "a/memory.current": "1900\n", "a/b/memory.max": "1000\n"}
    group = tree(tmp_path, "0::/a/b", files | {"a/b/memory.current": "100\n"})
    assert (group.memory_limit(), group.memory_left()) == (1000, 100)


def test_memory_used_in_a_hierarchy_of_version_1_is_the_parents(tmp_path):
    stat = "hierarchical_memory_limit 1000\n"
    files = {"a/memory.limit_in_bytes": "1000\n", "a/memory.usage_in_bytes": "950\n", "a/memory.stat": stat}
    files |= {"a/b/memory.limit_in_bytes": V1_UNLIMITED, "a/b/memory.usage_in_bytes": "100\n", "a/b/memory.stat": stat}
    group = tree(tmp_path, "4:memory:/a/b", {f"memory/{name}": text for name, text in files.items()})
    assert (group.memory_limit(), group.memory_used(), group.memory_left()) == (1000, 950, 50)


def test_memory_used_is_that_of_the_group_with_the_limit(tmp_path):
    files = {"a/memory.max": "1000\n", "a/memory.current": "950\n", "a/b/memory.max": "max\n"}
    group = tree(tmp_path, "0::/a/b", files | {"a/b/memory.current": "100\n"})
    assert (group.memory_used(), group.memory_limit()) == (950, 1000)


@pytest.mark.parametrize(
    ("membership", "files", "seconds"),
    [
        ("0::/a", {"a/cpu.stat": "usage_usec 2500000\nuser_usec 1\n"}, 2.5),
        ("3:cpuacct:/a", {"cpuacct/a/cpuacct.usage": "2500000000\n"}, 2.5),
        ("2:cpu,cpuacct:/host", {"cpuacct/cpuacct.usage": "1500000000\n"}, 1.5),
        ("0::/a", {"a/cpu.max": "max 100000\n"}, None),
    ],
)
def test_processor_seconds(tmp_path, membership, files, seconds):
    assert tree(tmp_path, membership, files).cpu_seconds() == seconds


def test_no_control_groups_mean_no_limits(tmp_path):
    group = cgroup.find(str(tmp_path / "none"), str(tmp_path / "nothing"))
    assert (group.memory_limit(), group.cpu_limit(), group.memory_used(), group.cpu_seconds()) == (None,) * 4


def samples_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_processor_time_and_memory_of_a_child_are_counted(tmp_path):
    with ResourceMonitor(interval=0.05, samples=tmp_path / "s.jsonl") as watched, worker(100_000_000, 0.5):
        time.sleep(0.2)
    summary, samples = watched.summary(), samples_of(tmp_path / "s.jsonl")
    assert 0.4 < summary["cpu_seconds"] < 5
    assert summary["cpu_percent"] == pytest.approx(100 * summary["cpu_seconds"] / summary["seconds"], rel=0.05)
    rss = [sample["rss_mb"] for sample in samples]
    assert 90 < max(rss) - rss[0] < 300
    assert summary["rss_peak_mb"] >= max(rss)
    assert max(sample["cpu_percent"] for sample in samples[1:]) > 5


def test_only_the_named_family_is_counted():
    with worker(100_000_000, 0.3) as process:
        with ResourceMonitor(interval=0.05, roots=[process.pid]) as watched:
            ended = time.process_time() + 0.3
            while time.process_time() < ended:
                pass
        summary = watched.summary()
    # neither what it did before, nor what this process does now
    assert 0 <= summary["cpu_seconds"] < 0.1
    assert 0 <= summary["cpu_percent"] < 30
    assert 100 < summary["rss_peak_mb"] < 200


def test_child_that_came_between_two_samples_is_counted_whole():
    with ExitStack() as children, ResourceMonitor(interval=60) as watched:
        children.enter_context(worker(0, 0.5))
    assert 0.45 < watched.summary()["cpu_seconds"] < 2


def test_memory_held_only_between_two_samples_is_in_the_peak():
    code = "input(); held = b'x' * 100_000_000; del held; print('done', flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        with ResourceMonitor(interval=60, roots=[process.pid]) as watched:
            process.stdin.write("\n")
            process.stdin.flush()
            process.stdout.readline()
        summary = watched.summary()
        process.communicate("\n")
    assert summary["samples"] == 2
    assert 100 < summary["rss_peak_mb"] < 200


def test_phases_add_up():
    with ResourceMonitor() as watched:
        for _ in range(2):
            with watched.phase("train"):
                time.sleep(0.05)
        with pytest.raises(KeyError), watched.phase("encode"):
            raise KeyError
    summary = watched.summary()
    assert list(summary["phases"]) == ["train", "encode"]
    assert 0.1 <= summary["phases"]["train"] <= summary["seconds"] < 60
    assert summary["phases"]["encode"] < summary["phases"]["train"]


def test_summary_has_all_figures():
    with ResourceMonitor(interval=0.02) as watched:
        time.sleep(0.3)
    summary = watched.summary()
    assert set(summary) == KEYS
    assert summary["samples"] >= 3
    assert 0 < summary["ram_percent"] <= 100
    assert 0 < summary["ram_used_mb"] <= psutil.virtual_memory().total / MB
    json.dumps(summary)


def test_seconds_stop_with_the_task():
    with ResourceMonitor() as watched:
        time.sleep(0.05)
        during = watched.summary()["seconds"]
    after = watched.summary()["seconds"]
    time.sleep(0.05)
    assert 0.05 <= during <= after == watched.summary()["seconds"]


def test_samples_carry_labels_and_their_time(tmp_path):
    path = tmp_path / "new" / "samples.jsonl"
    labels = {"client": "a", "round": 4, "task": "train"}
    before = time.time()
    for _ in range(2):
        with ResourceMonitor(interval=0.02, samples=path, labels=labels) as watched:
            time.sleep(0.05)
    samples = samples_of(path)
    assert len(samples) >= 4 and len(samples) > watched.summary()["samples"]
    assert all(sample.items() >= labels.items() for sample in samples)
    assert samples[-1].keys() >= {"time", "rss_mb", "cpu_percent", "ram_used_mb", "ram_percent", "cpu_mhz"}
    times = [sample["time"] for sample in samples]
    assert times == sorted(times)
    assert before - 1 < times[0] and times[-1] < time.time() + 1


def test_full_samples_file_is_set_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(monitor, "SAMPLES_LIMIT", 10)
    path = tmp_path / "samples.jsonl"
    path.write_text("what was there before\n")
    with ResourceMonitor(samples=path):
        pass
    assert (tmp_path / "samples.old.jsonl").read_text() == "what was there before\n"
    assert len(samples_of(path)) == 2


def test_samples_that_cannot_be_written_do_no_harm(tmp_path):
    (tmp_path / "file").write_text("")
    with ResourceMonitor(samples=tmp_path / "file" / "samples.jsonl") as watched:
        pass
    assert watched.summary()["samples"] == 2


def test_family_that_is_gone_has_no_figures(ended):
    with ResourceMonitor(interval=0.02, roots=[ended]) as watched:
        time.sleep(0.05)
    summary = watched.summary()
    assert [summary[key] for key in ("cpu_seconds", "cpu_percent", "rss_peak_mb")] == [None] * 3
    assert summary["ram_used_mb"] > 0


def test_family_that_is_left_is_measured_when_another_is_gone(ended):
    with ResourceMonitor(interval=0.02, roots=[ended, os.getpid()]) as watched:
        pass
    assert watched.summary()["rss_peak_mb"] >= 0.9 * psutil.Process().memory_info().rss / MB


def test_unknown_frequency_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(psutil, "cpu_freq", lambda: None)
    with ResourceMonitor(samples=tmp_path / "s.jsonl") as watched:
        pass
    assert watched.summary()["cpu_mhz"] is None
    assert [sample["cpu_mhz"] for sample in samples_of(tmp_path / "s.jsonl")] == [None, None]


def test_frequency_that_cannot_be_read_costs_no_other_figure(monkeypatch):
    def fails():
        raise NotImplementedError("can't find current frequency file")  # psutil's own, on some machines

    monkeypatch.setattr(psutil, "cpu_freq", fails)
    with ResourceMonitor() as watched:
        pass
    summary = watched.summary()
    assert summary["cpu_mhz"] is None
    assert summary["samples"] == 2
    assert summary["ram_used_mb"] > 0


@pytest.mark.parametrize("name", ["cpu_percent", "cpu_freq", "Process"])
def test_task_survives_what_the_machine_does_not_tell(monkeypatch, name):
    def fails(*arguments, **options):
        raise OSError("no such file")

    monkeypatch.setattr(psutil, name, fails)
    done = []
    with ResourceMonitor(interval=0.02) as watched:
        done.append("work")
    assert done == ["work"]
    assert set(watched.summary()) == KEYS


def test_unreadable_control_group_gives_none(monkeypatch, tmp_path):
    group = tree(tmp_path, "0::/", {"memory.max": "100000000\n", "cpu.max": "50000 100000\n"})
    monkeypatch.setattr(cgroup, "find", lambda: group)
    with ResourceMonitor() as watched:
        pass
    summary = watched.summary()
    assert [summary[key] for key in ("ram_used_mb", "ram_percent", "machine_cpu_percent")] == [None] * 3
    assert summary["rss_peak_mb"] > 0


class Readings:
    """A board that tells one thing after the other, and after that that its files cannot be read."""

    def __init__(self, *readings):
        self.readings = iter(readings)
        self.patient = []

    def read(self, patient=False):
        self.patient.append(patient)
        gpu, temperature, power = next(self.readings)
        return {"gpu_percent": gpu, "temperature_c": temperature, "power_mw": power}


def test_the_boards_sensors_are_in_samples_and_summary(monkeypatch, tmp_path):
    board = Readings((10.0, 40.0, None), (40.0, 55.5, None), (None, 50.0, None))
    monkeypatch.setattr(sensors, "find", lambda: board)
    with ResourceMonitor(interval=0.05, samples=tmp_path / "s.jsonl") as watched:
        time.sleep(0.3)
    summary = watched.summary()
    assert (summary["gpu_percent"], summary["temperature_c"], summary["power_mw"]) == (25.0, 55.5, None)
    samples = samples_of(tmp_path / "s.jsonl")
    assert [sample.get("temperature_c") for sample in samples[:4]] == [40.0, 55.5, 50.0, None]
    # only the samples that the task does not wait for may take their time
    assert board.patient[0] is board.patient[-1] is False and all(board.patient[1:-1]) and len(board.patient) > 2


def test_mean_power_of_the_samples_that_have_one(monkeypatch):
    monkeypatch.setattr(sensors, "find", lambda: Readings((None, None, 3000.0), (None, None, 4500.0)))
    with ResourceMonitor(interval=60) as watched:
        pass
    assert watched.summary()["power_mw"] == 3750.0


def test_sensors_that_cannot_even_be_looked_for_cost_nothing(monkeypatch):
    def fails():
        raise PermissionError("/sys")

    monkeypatch.setattr(sensors, "find", fails)
    with ResourceMonitor() as watched:
        pass
    summary = watched.summary()
    assert [summary[key] for key in sensors.KEYS] == [None] * 3 and summary["samples"] == 2


def test_limited_control_group_stands_for_the_machine(monkeypatch, tmp_path):
    files = {"memory.max": "100000000\n", "memory.current": "40000000\n", "memory.stat": "inactive_file 10000000\n"}
    group = tree(tmp_path, "0::/", files | {"cpu.max": "50000 100000\n", "cpu.stat": "usage_usec 1000000\n"})
    monkeypatch.setattr(cgroup, "find", lambda: group)
    entered = time.monotonic()
    with ResourceMonitor(interval=60) as watched:
        inside = time.monotonic()
        time.sleep(0.2)
        (tmp_path / "cgroup" / "cpu.stat").write_text("usage_usec 1100000\n")
        shortest = time.monotonic() - inside
    longest = time.monotonic() - entered
    summary = watched.summary()
    assert (summary["ram_used_mb"], summary["ram_percent"]) == (30, 30)
    # 0.1 processor seconds, of the half processor that there is
    assert 100 * 0.1 / 0.5 / longest - 0.1 <= summary["machine_cpu_percent"] <= 100 * 0.1 / 0.5 / shortest + 0.1


def test_memory_at_the_end_of_a_phase_counts_shared_pages_once():
    """This process, which holds 100 MB, and a fork of it, which shares them: 100 MB, not 200."""
    before = anonymous_memory([os.getpid()]) / MB
    held = np.ones(12_500_000)
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        with ResourceMonitor(memory_roots=[os.getpid(), child]) as watched, watched.phase("train"):
            pass
        with ResourceMonitor(memory_roots=[child]) as alone, alone.phase("train"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    summary = watched.summary()
    assert summary["memory_peak_mb"] == summary["memory_mb"]["train"]
    assert before + 90 < summary["memory_peak_mb"] < before + 130
    assert alone.summary()["memory_peak_mb"] < 0.7 * summary["memory_peak_mb"]
    assert held.nbytes == 1e8


def test_older_kernels_tell_the_same_in_more_words(monkeypatch):
    """Before Linux 5.3 the shares of anonymous memory stand in smaps only, mapping by mapping."""
    newer = anonymous_memory([os.getpid()])
    read_text = Path.read_text

    def without_rollup(path, *args, **kwargs):
        if path.name == "smaps_rollup":
            raise FileNotFoundError(path)
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", without_rollup)
    assert anonymous_memory([os.getpid()]) == pytest.approx(newer, rel=0.1)


def test_memory_of_processes_that_are_gone_is_unknown(ended):
    assert anonymous_memory([ended]) is None


def test_a_step_of_the_clock_changes_no_share_of_the_processor(monkeypatch):
    monitor = ResourceMonitor(interval=60)
    clock = iter([1e9, 1e9 - 3600, 1e9 + 3600])
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: next(clock))
        expected = []
        for _ in range(3):
            started, used = time.monotonic(), time.process_time()
            while time.process_time() - used < 0.2:
                pass
            expected.append(100 * 0.2 / (time.monotonic() - started))
            monitor._sample()
    shares = [sample["cpu_percent"] for sample in monitor._samples[1:]]
    assert all(0.5 < share / wanted < 2 for share, wanted in zip(shares, expected[1:], strict=True)), (shares, expected)
