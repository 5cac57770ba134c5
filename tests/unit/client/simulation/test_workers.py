"""What the processes of simulations keep, on a made-up machine whose memory is all in their steps."""

import importlib.util
from types import SimpleNamespace

import pytest
from paths import ROOT

from fedn_partial.client.simulation import workers
from fedn_partial.device import cgroup

TOTAL = 1000
BASE, STEP = 50, 1  # of a process, of a step


class Machine:
    """Processes, each with a copy of the module of its own; memory that a process had stays with it."""

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

    def keep(self, process, key):
        self.running = process
        made = []
        process._kept((key,), lambda: made.append(key) or key)
        self.most[process] = max(self.most[process], len(process._STEPS))
        return bool(made)


@pytest.mark.parametrize("processes", [1, 2, 6])
def test_all_simulations_together_leave_the_share_free(monkeypatch, processes):
    machine = Machine(monkeypatch)
    pools = [machine.start() for _ in range(processes)]
    for number in range(3000):
        for process in pools:
            machine.keep(process, number)
    assert machine.used() <= (1 - workers.LEAVE) * TOTAL + processes * STEP
    assert machine.used() >= 0.9 * (1 - workers.LEAVE) * TOTAL


def test_memory_that_others_take_costs_no_more_than_growth(monkeypatch):
    machine = Machine(monkeypatch)
    process = machine.start()
    for number in range(300):
        machine.keep(process, number)
    assert len(process._STEPS) == 300
    machine.others = 900  # a second simulation, or anything else
    for number in range(1000, 3000):
        machine.keep(process, number)
        assert machine.most[process] <= 301
    assert len(process._STEPS) >= 150  # it need not trace all of its steps anew


@pytest.mark.parametrize(("free", "total"), [(None, TOTAL), (TOTAL, None)])
def test_little_is_kept_where_nobody_knows_the_memory(monkeypatch, free, total):
    machine = Machine(monkeypatch)
    process = machine.start()
    monkeypatch.setattr(cgroup, "available_memory", lambda: free)
    monkeypatch.setattr(cgroup, "machine_memory", lambda: total)
    for number in range(100):
        machine.keep(process, number)
    assert len(process._STEPS) <= 3


def test_a_step_that_is_kept_is_not_made_again(monkeypatch):
    machine = Machine(monkeypatch)
    process = machine.start()
    assert machine.keep(process, 1) and machine.keep(process, 2)
    assert not machine.keep(process, 1)


def test_the_docs_state_the_share_that_stays_free():
    page = " ".join((ROOT / "docs/EXPERIMENTS.md").read_text().split())
    assert f"cache traced training steps only while {100 * workers.LEAVE:.0f} % of the machine's memory is free" in page
