"""The processes in which simulated clients train and test, one client at a time each.

Each runs TensorFlow on one thread: what a client computes then does not depend on how many processes there are.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import shutil
import signal
import traceback
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from fedn_partial.custom import modules
from fedn_partial.device import cgroup
from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.forkserver import die_with_parent
from fedn_partial.runtime.round import Client, run_evaluation, run_round
from fedn_partial.settings.case import RoundSettings

LEAVE = 0.3  # of the memory of this machine, or control group, that must be free for a process to keep one more step


@dataclass(frozen=True)
class Task:
    """What one client does in one round.

    Attributes
    ----------
    model : file with the global model. shard : folder of the client's data.
    max_layers : the client's own limit, or None.
    state : folder of what the client kept from earlier rounds, or None if it kept nothing.
    new_state, update : of a training: folder of what it keeps after this round, and the file that it writes, with its
        metadata beside it.
    custom : folder of custom modules, or None.
    """

    client: str
    settings: RoundSettings
    model: str
    shard: str
    max_layers: int | None = None
    state: str | None = None
    new_state: str | None = None
    update: str | None = None
    custom: str | None = None


@contextmanager
def workers(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of `processes` that ``train`` and ``test`` run in; several simulations may use it in turn."""
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def processors() -> int:
    """Return how many processors this process may use, whole ones."""
    return max(1, int(cgroup.processors()))


class SimulatedClient(Client):
    """A client whose process keeps models and traced steps from task to task."""

    evaluation_batch = 250

    def __init__(self, task: Task, state: str | None):
        super().__init__(task.client, task.shard, state and Path(state), task.max_layers)
        self.custom = task.custom

    def build_model(self, section: dict) -> tuple:
        _use(self.custom)
        key = json.dumps(section, sort_keys=True)
        if key not in _MODEL:
            _MODEL.clear()
            _STEPS.clear()
            gc.unfreeze()
            gc.collect()
            _MODEL[key] = super().build_model(section)
        return _MODEL[key]

    def training_step(self, model, layers, selected, x, settings):
        from fedn_partial.training import step

        options, update_batchnorm = settings.training, settings.updates_frozen_batchnorm
        names = tuple(layer.name for layer in selected)
        key = (names, x.dtype.str, update_batchnorm, options.optimizer, options.learning_rate, options.momentum)
        return _kept(key, lambda: step.trace(model, layers, selected, x, options, update_batchnorm))

    def evaluation_step(self, model, x):
        from fedn_partial.training import evaluation

        return _kept(("test", x.dtype.str), lambda: evaluation.trace(model, x))


def train(task: Task) -> str | None:
    """Train the layers that `task` selects and write the update; return why it cannot, or None."""
    from fedn_partial.exchange import encoding

    try:
        _use(task.custom)
        if task.settings.stateful:
            _copy_state(task)
        result = run_round(task.settings, SimulatedClient(task, task.new_state), task.model, task.update)
        encoding.write_metadata(task.update, result.metadata)
    except FednPartialError as error:
        return str(error)
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


def test(task: Task) -> dict:
    """Return the metrics of ``run_evaluation`` on this client's test examples; none if it fails, with a traceback."""
    try:
        return run_evaluation(task.settings, SimulatedClient(task, task.state), task.model)
    except Exception:
        traceback.print_exc()
        return {}


# What a process keeps from one task to the next: a model, and the steps that were traced of it, those that were not
# used for longest first. Tracing takes as long as training on some hundred images, and 8 MB with VGG16.
_MODEL: dict[str, tuple] = {}
_STEPS: OrderedDict[tuple, object] = OrderedDict()
_MOST = float("inf")  # steps that there is memory for
_SIZE = 0  # bytes of this process when that was last lowered


def _begin() -> None:
    die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the processes would take a card's memory from each other
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"


def _kept(key: tuple, make):
    """Return the step that is kept under `key`, made if need be; where memory is short, half of the others give way."""
    global _MOST, _SIZE
    if key not in _STEPS:
        # What steps leave behind this process uses for the next ones, but does not give back. So the number is lowered
        # once more only if it has grown since, whoever else takes memory.
        size = psutil.Process().memory_info().rss
        if size > _SIZE and _memory_is_short():
            _MOST, _SIZE = max(2, len(_STEPS)), size
        if len(_STEPS) >= _MOST:
            for _ in range(len(_STEPS) // 2):
                _STEPS.popitem(last=False)
            gc.unfreeze()
            gc.collect()
        _STEPS[key] = make()
        gc.freeze()  # graphs are millions of objects, which every collection would look through
    _STEPS.move_to_end(key)
    return _STEPS[key]


def _memory_is_short() -> bool:
    """Return whether less than `LEAVE` of the memory is free now, or nobody knows."""
    free, there_is = cgroup.available_memory(), cgroup.machine_memory()
    return free is None or there_is is None or free < LEAVE * there_is


def _use(custom: str | None) -> None:
    """Let names refer to the modules in the folder `custom`; the model kept is no longer valid if it is another one."""
    active = modules.active()
    if custom != (active and str(active.folder)):
        _MODEL.clear()
        modules.use(custom)


def _copy_state(task: Task) -> None:
    """Begin the new state as a copy of the old one; a state that a killed run left half done is removed."""
    shutil.rmtree(task.new_state, ignore_errors=True)
    if task.state:
        shutil.copytree(task.state, task.new_state)
    else:
        Path(task.new_state).mkdir(parents=True)
