"""The step cache of the worker processes, on a simulated machine whose memory is used by steps only."""

import importlib.util
from types import SimpleNamespace

import pytest
from paths import ROOT

from fedn_partial.client.simulation import workers
from fedn_partial.device import cgroup

TOTAL = 1000
BASE, STEP = 50, 1  # of a process, of a step


class Machine:
    """Processes, each with its own copy of the module; a process never returns memory."""

    def __init__(self, monkeypatch, others=0):
        self.monkeypatch, self.others, self.most = monkeypatch, others, {}
        monkeypatch.setattr(cgroup, "machine_memory", lambda: TOTAL)
        monkeypatch.setattr(cgroup, "available_memory", lambda: TOTAL - self.used())
        monkeypatch.setattr(workers.psutil, "Process", lambda: self)
        for name in ("collect", "freeze", "unfreeze"):  # of all that the tests hold, thousands of times
            monkeypatch.setattr(workers.gc, name, lambda: None)

    def start(self):
        spec = importlib.util.find_spec("fedn_partial.client.simulation.workers")
        process = importlib.util.module_from_spec(spec)
        self.monkeypatch.setitem(__import__("sys").modules, spec.name, process)
        spec.loader.exec_module(process)
        self.most[process] = 0
        return process

    def used(self):
        return self.others + sum(BASE + STEP * most for most in self.most.values())

    def memory_info(self):
        return SimpleNamespace(rss=BASE + STEP * self.most[self.running])

    def request(self, process, key):
        """Request the step `key`; return whether it was traced."""
        self.running = process
        traced = []
        process._cached_step((key,), lambda: traced.append(key) or key)
        self.most[process] = max(self.most[process], len(process._step_cache))
        return bool(traced)


@pytest.mark.parametrize("processes", [1, 2, 6])
def test_all_processes_together_leave_the_share_free(monkeypatch, processes):
    machine = Machine(monkeypatch)
    pools = [machine.start() for _ in range(processes)]
    for number in range(3000):
        for process in pools:
            machine.request(process, number)
    assert machine.used() <= (1 - workers.MIN_FREE_MEMORY) * TOTAL + processes * STEP
    assert machine.used() >= 0.9 * (1 - workers.MIN_FREE_MEMORY) * TOTAL


def test_memory_use_of_other_processes_only_stops_growth(monkeypatch):
    machine = Machine(monkeypatch)
    process = machine.start()
    for number in range(300):
        machine.request(process, number)
    assert len(process._step_cache) == 300
    machine.others = 900  # of other processes
    for number in range(1000, 3000):
        machine.request(process, number)
        assert machine.most[process] <= 301
    assert len(process._step_cache) >= 150  # only part of the cache is evicted


@pytest.mark.parametrize(("free", "total"), [(None, TOTAL), (TOTAL, None)])
def test_few_steps_are_cached_if_the_memory_is_unknown(monkeypatch, free, total):
    machine = Machine(monkeypatch)
    process = machine.start()
    monkeypatch.setattr(cgroup, "available_memory", lambda: free)
    monkeypatch.setattr(cgroup, "machine_memory", lambda: total)
    for number in range(100):
        machine.request(process, number)
    assert len(process._step_cache) <= 3


def test_a_cached_step_is_not_traced_again(monkeypatch):
    machine = Machine(monkeypatch)
    process = machine.start()
    assert machine.request(process, 1) and machine.request(process, 2)
    assert not machine.request(process, 1)


def test_the_docs_state_the_share_that_stays_free():
    page = " ".join((ROOT / "docs/EXPERIMENTS.md").read_text().split())
    share = f"{100 * workers.MIN_FREE_MEMORY:.0f} %"
    assert f"cache traced training steps only while {share} of the machine's memory is free" in page
