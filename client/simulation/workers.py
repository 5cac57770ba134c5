"""Worker processes in which simulated clients train and test, one client at a time per process.

TensorFlow runs on one thread in each process, so that results do not depend on the number of processes.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
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
from fedn_partial.runtime.round import Client, commit_round, run_evaluation, run_round
from fedn_partial.settings.case import RoundSettings

MIN_FREE_MEMORY = 0.3  # share of the memory of the machine or control group; below it the step cache stops growing


@dataclass(frozen=True)
class Task:
    """Training or test of one client in one round.

    Attributes
    ----------
    model : file of the global model.
    shard : folder of the client's data.
    max_layers : limit of the client's device, or None.
    state : folder of the client's state between rounds.
    update : file for the update; its metadata are written beside it.
    custom : folder of custom modules, or None.
    """

    client: str
    settings: RoundSettings
    model: str
    shard: str
    state: str
    max_layers: int | None = None
    update: str | None = None
    custom: str | None = None


@contextmanager
def workers(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes for ``train`` and ``test``; consecutive simulations may share it."""
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _initialize)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def processors() -> int:
    """Return the number of processors available to this process, rounded down and at least 1."""
    return max(1, int(cgroup.processors()))


class SimulatedClient(Client):
    """A client that caches the model and traced steps of its worker process across tasks."""

    evaluation_batch = 250

    def __init__(self, task: Task):
        super().__init__(task.client, task.shard, Path(task.state), task.max_layers)
        self.custom = task.custom

    def build_model(self, section: dict) -> tuple:
        _activate_modules(self.custom)
        key = json.dumps(section, sort_keys=True)
        if key not in _model_cache:
            _model_cache.clear()
            _step_cache.clear()
            gc.unfreeze()
            gc.collect()
            _model_cache[key] = super().build_model(section)
        return _model_cache[key]

    def training_step(self, model, layers, selected, x, settings):
        from fedn_partial.training import step

        options, update_batchnorm = settings.training, settings.updates_frozen_batchnorm
        names = tuple(layer.name for layer in selected)
        key = (names, x.dtype.str, update_batchnorm, options.optimizer, options.learning_rate, options.momentum)
        key += (json.dumps(settings.objective, sort_keys=True),)
        return _cached_step(key, lambda: step.trace(model, layers, selected, x, step.StepSettings.of_round(settings)))

    def evaluation_step(self, model, x):
        from fedn_partial.training import evaluation

        return _cached_step(("test", x.dtype.str), lambda: evaluation.trace(model, x))


def train(task: Task) -> str | None:
    """Train the selected layers and write the update; return the reason of a refusal, or None."""
    try:
        _activate_modules(task.custom)
        commit_round(run_round(task.settings, SimulatedClient(task), task.model, task.update), task.update)
    except FednPartialError as error:
        return str(error)
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


def test(task: Task) -> dict:
    """Return the metrics on the client's test examples; after a failure print a traceback and return an empty dict."""
    try:
        return run_evaluation(task.settings, SimulatedClient(task), task.model)
    except Exception:
        traceback.print_exc()
        return {}


# Caches of the worker process: one model, and its traced steps in least-recently-used order. With VGG16, tracing a step
# takes as long as training on some hundred images, and a step takes 8 MB.
_model_cache: dict[str, tuple] = {}
_step_cache: OrderedDict[tuple, object] = OrderedDict()
_max_cached_steps = float("inf")
_rss_at_limit = 0  # resident bytes of this process when _max_cached_steps was last lowered


def _initialize() -> None:
    die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent shuts down the pool
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the processes would compete for the memory of one GPU
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"


def _cached_step(key: tuple, trace):
    """Return the step cached under `key`, traced on a miss.

    If memory is low, the cache is limited to its current size. A full cache evicts its least recently used half.
    """
    global _max_cached_steps, _rss_at_limit
    if key not in _step_cache:
        # The allocator reuses the memory of evicted steps and does not return it to the system. The limit is therefore
        # lowered again only if this process has grown since, whatever other processes allocate.
        rss = psutil.Process().memory_info().rss
        if rss > _rss_at_limit and _memory_is_low():
            _max_cached_steps, _rss_at_limit = max(2, len(_step_cache)), rss
        if len(_step_cache) >= _max_cached_steps:
            for _ in range(len(_step_cache) // 2):
                _step_cache.popitem(last=False)
            gc.unfreeze()
            gc.collect()
        _step_cache[key] = trace()
        gc.freeze()  # exclude the millions of objects of the graphs from later collections
    _step_cache.move_to_end(key)
    return _step_cache[key]


def _memory_is_low() -> bool:
    """Return whether less than `MIN_FREE_MEMORY` of the memory is available, or the memory is unknown."""
    available, total = cgroup.available_memory(), cgroup.machine_memory()
    return available is None or total is None or available < MIN_FREE_MEMORY * total


def _activate_modules(custom: str | None) -> None:
    """Use the custom modules in the folder `custom`; clear the cached model if other modules were active."""
    active = modules.active()
    if custom != (active and str(active.folder)):
        _model_cache.clear()
        modules.use(custom)
