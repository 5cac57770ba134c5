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
from fedn_partial.settings.case import RoundSettings

TEST_BATCH = 250
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


def train(task: Task) -> str | None:
    """Train the layers that `task` selects and write the update; return why it cannot, or None."""
    from fedn_partial.data.shard import check_fits, open_shard
    from fedn_partial.exchange import encoding
    from fedn_partial.runtime import local_round
    from fedn_partial.submodel import selection

    told, client = task.settings, task.client
    try:
        _use(task.custom)
        model, layers = _model(told)
        shard = open_shard(task.shard)
        check_fits(shard, model)
        for _ in local_round.load(model, layers, task.model):
            pass
        kept = Path(task.new_state)
        if local_round.keeps(told):
            _copy_state(task)
        local_round.put_own_statistics(model, layers, told, kept)
        local_round.set_seed(model, told, client)
        context = local_round.context(told, client, task.max_layers)
        selector = selection.from_dict(told.selection)
        asked = selection.requested_layers(selector, layers, context)
        selected = selection.select_layers(selector, layers, context)
        step = _step(model, layers, selected, shard.x_train, told)
        trained = local_round.train(model, layers, selected, shard, told, client, step=step)
        checksum = local_round.write_update(task.update, model, layers, selected, told, task.model, kept)
    except FednPartialError as error:
        return str(error)
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    limited = f"{len(selected)} of the {len(asked)} layers asked for" if len(selected) < len(asked) else None
    metadata = local_round.metadata(told, client, layers, selected, trained, checksum, context)
    encoding.write_metadata(
        task.update, {**metadata, "limited": limited, "download_bytes": os.path.getsize(task.model)}
    )
    return None


def test(task: Task) -> tuple[float | None, float | None, int | None]:
    """Return accuracy and mean loss of the model on this client's test examples, and how many these are.

    All None if it cannot be tested; why is printed.
    """
    try:
        return _test(task)
    except Exception:
        traceback.print_exc()
        return None, None, None


def _test(task: Task) -> tuple[float, float, int]:
    from fedn_partial.data.shard import open_shard
    from fedn_partial.runtime import local_round
    from fedn_partial.training import local_training

    told = task.settings
    _use(task.custom)
    model, layers = _model(told)
    shard = open_shard(task.shard)
    for _ in local_round.load(model, layers, task.model):
        pass
    if task.state:
        local_round.put_own_statistics(model, layers, told, Path(task.state))
    step = _kept(("test", shard.x_test.dtype.str), lambda: local_training.trace_evaluation(model, shard.x_test))
    accuracy, loss = local_training.evaluate(model, shard.x_test, shard.y_test, TEST_BATCH, step)
    return accuracy, loss, len(shard.y_test)


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


def _model(told: RoundSettings):
    from fedn_partial import models
    from fedn_partial.submodel.layers import read_layers

    key = json.dumps(told.model, sort_keys=True)
    if key not in _MODEL:
        _MODEL.clear()
        _STEPS.clear()
        gc.unfreeze()
        gc.collect()
        model = models.build(told.model, empty=True)
        _MODEL[key] = model, read_layers(model)
    return _MODEL[key]


def _step(model, layers, selected, x, told: RoundSettings):
    from fedn_partial.runtime import local_round
    from fedn_partial.training import local_training

    options = told.training
    update_batchnorm = local_round.updates_batchnorm(told)
    names = tuple(layer.name for layer in selected)
    key = (names, x.dtype.str, update_batchnorm, options.optimizer, options.learning_rate, options.momentum)
    return _kept(key, lambda: local_training.trace(model, layers, selected, x, options, update_batchnorm))


def _copy_state(task: Task) -> None:
    """Begin the new state as a copy of the old one; a state that a killed run left half done is removed."""
    shutil.rmtree(task.new_state, ignore_errors=True)
    if task.state:
        shutil.copytree(task.state, task.new_state)
    else:
        Path(task.new_state).mkdir(parents=True)
