"""Merge rules trimmed_mean and median in FEDn's own hooks service, with NumPy and SciPy as oracles."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from server_functions.server_oracles import assert_close, assert_same_bits
from server_functions.server_worlds import client, made

from fedn_partial.exchange.merge_rules import RULES, spool, stacked
from fedn_partial.exchange.merge_rules.base import Round, Update

TRIM = 0.2
NAMES = "abcdefghijk"
NAMED = ["0", "1", "2"]  # files of a round


def cut(clients: int) -> int:
    """How many values are cut at each end."""
    return 0 if clients < 3 else max(int(TRIM * clients), 1)


CENTRES = {
    "median": lambda values: np.median(values, axis=0),
    "trimmed_mean": lambda values: stats.trim_mean(values, (cut(len(values)) + 0.5) / len(values), axis=0),
}


def merged_by_oracle(world, clients, centre):
    """Return the model that goes m_l / m of the way to the centre of the m_l clients that sent a layer."""
    expected = [array.astype(np.float64) for array in world.model]
    for layer in world.layers:
        senders = [one for one in clients if layer.name in one.layers]
        if not senders:
            continue
        step, stacks = len(senders) / len(clients), {}
        for tensor in layer.tensors:
            stacks[tensor.index] = np.array([one.weights[tensor.index] for one in senders], np.float64)
            expected[tensor.index] += step * (centre(stacks[tensor.index]) - expected[tensor.index])
        for tensor in layer.tensors:
            if tensor.name.endswith("/moving_variance"):
                mean = tensor.index - 1
                moment = centre(stacks[tensor.index] + stacks[mean] ** 2)
                old = world.model[tensor.index].astype(np.float64) + world.model[mean].astype(np.float64) ** 2
                expected[tensor.index] = step * moment + (1 - step) * old - expected[mean] ** 2
    return expected


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 10, 11])
@pytest.mark.parametrize("rule", CENTRES)
def test_a_full_round_gives_the_centre_of_each_entry(rule, count, normalised, start, send):
    clients = [client(normalised, name, examples=7 * n + 1) for n, name in enumerate(NAMES[:count])]
    result = start(normalised, merge=rule, trim=TRIM).round(normalised.model, send(normalised, *clients))
    assert_close(result.model, merged_by_oracle(normalised, clients, CENTRES[rule]))
    kernel = normalised.tensor("conv0/kernel")
    stack = np.array([one.weights[kernel] for one in clients], np.float64)
    np.testing.assert_allclose(result.model[kernel], CENTRES[rule](stack), rtol=1e-6)


@pytest.mark.parametrize("rule", CENTRES)
def test_a_partial_round_goes_the_share_of_its_senders(rule, normalised, start, send):
    trained = (["conv0"], ["conv0", "dense"], ["conv0", "conv1"], ["conv0", "dense"], ["conv1"])
    clients = [client(normalised, name, layers) for name, layers in zip(NAMES, trained, strict=False)]
    result = start(normalised, merge=rule, trim=TRIM).round(normalised.model, send(normalised, *clients))
    assert_close(result.model, merged_by_oracle(normalised, clients, CENTRES[rule]))


@pytest.mark.parametrize("rule", CENTRES)
def test_layers_that_nobody_sent_keep_their_bits(rule, normalised, start, send):
    clients = [client(normalised, name, ["conv1"]) for name in NAMES[:3]]
    model = start(normalised, merge=rule).round(normalised.model, send(normalised, *clients)).model
    for name in ("conv0", "dense"):
        indices = [tensor.index for tensor in normalised.layer(name).tensors]
        assert_same_bits([model[index] for index in indices], [normalised.model[index] for index in indices])


@pytest.mark.parametrize("rule", CENTRES)
def test_statistics_that_are_always_sent_are_the_centre_of_all(rule, normalised, start, send):
    clients = [client(normalised, name, ["dense"]) for name in NAMES[:4]]
    combiner = start(normalised, merge=rule, batchnorm_statistics="always")
    result = combiner.round(normalised.model, send(normalised, *clients, statistics="always"))
    mean, variance = (normalised.tensor(f"conv0_bn/moving_{name}") for name in ("mean", "variance"))
    means, variances = (np.array([one.weights[index] for one in clients], np.float64) for index in (mean, variance))
    centre = CENTRES[rule]
    np.testing.assert_allclose(result.model[mean], centre(means), rtol=1e-5)
    np.testing.assert_allclose(result.model[variance], centre(variances + means**2) - centre(means) ** 2, rtol=1e-5)


@pytest.mark.parametrize("rule", CENTRES)
@pytest.mark.parametrize("clients", [3, 4, 5, 10])
def test_a_merged_variance_is_never_negative(rule, clients):
    """Although mean and second moment may be those of different clients."""
    random = np.random.default_rng(clients)
    means = random.normal(random.normal(size=100_000), 10 ** random.uniform(-2, 1, 100_000), (clients, 100_000))
    moments = means**2 + random.exponential(1e-6, means.shape)
    centre = CENTRES[rule]
    assert (centre(moments) - centre(means) ** 2 > -1e-12).all()


@pytest.mark.parametrize("rule", CENTRES)
def test_one_wrong_client_of_three_is_borne(rule, normalised, start, send):
    clients = [client(normalised, name) for name in NAMES[:3]]
    for array in clients[2].weights:
        array *= 1e6
    model = start(normalised, merge=rule).round(normalised.model, send(normalised, *clients)).model
    kernel = normalised.tensor("dense/kernel")
    honest = np.array([one.weights[kernel] for one in clients[:2]])
    assert (np.abs(model[kernel]) <= np.abs(honest).max(axis=0)).all()


def folders() -> list[str]:
    return [name for name in os.listdir(tempfile.gettempdir()) if name.startswith(spool.PREFIX)]


def feed(functions, uploads, model):
    """Send uploads to server functions of a round that has begun, as FEDn's hooks service does."""
    for upload in uploads:
        with np.load(BytesIO(upload.data)) as archive:
            arrays = [archive[key] for key in archive.files]
        state = {"session": functions.client["session_id"], **{key: functions.state[key] for key in ("round", "base")}}
        functions.incremental_aggregate(upload.client_id, arrays, {**upload.metadata, **state}, model)
        yield


def begun(world, uploads, **options):
    """Return the server functions of a session whose first round has begun."""
    functions = made(world, **options)
    functions.client_selection([upload.client_id for upload in uploads])
    functions.client_settings(world.model)
    return functions


def test_updates_are_on_disk_during_the_round_only(normalised, start, send):
    good = send(normalised, *(client(normalised, name) for name in NAMES[:3]))
    start(normalised, merge="median", key="another").round(normalised.model, good)
    assert folders() == []
    functions = begun(normalised, good, merge="median")
    assert folders() == []
    for number, _ in enumerate(feed(functions, good, normalised.model), start=1):
        assert sorted(os.listdir(functions.rule.spool.folder.name)) == NAMED[:number]
    assert os.stat(functions.rule.spool.folder.name).st_mode & 0o777 == 0o700
    functions.client_settings(normalised.model)  # the round is given up
    assert folders() == []
    list(feed(functions, good, normalised.model))
    functions.get_incremental_aggregate_model()
    assert folders() == []
    functions.client_settings(normalised.model)
    list(feed(functions, good, normalised.model))
    assert len(folders()) == 1
    del functions  # the process gets the server functions of another session
    gc.collect()
    assert folders() == []


def test_a_killed_process_leaves_nothing_for_good(normalised, start, send):
    code = (
        "import tempfile, os, signal, sys; tempfile.tempdir = sys.argv[1]\n"
        "from fedn_partial.exchange.merge_rules.spool import Spool; import numpy as np\n"
        "Spool().add({'layer': [np.ones(3, np.float32)]}); spool = Spool(); spool.add({'layer': [np.ones(3)]})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    combiner = start(normalised, merge="median")
    subprocess.run([sys.executable, "-c", code, tempfile.gettempdir()])
    assert len(folders()) == 1
    running = os.path.join(tempfile.gettempdir(), f"{spool.PREFIX}{os.getpid()}-other")
    os.mkdir(running)
    combiner.round(normalised.model, send(normalised, client(normalised, "a")))
    assert folders() == [os.path.basename(running)]


@pytest.mark.parametrize("seems_free", [False, True])
def test_updates_that_do_not_fit_the_disk_are_skipped_with_the_reason(
    seems_free, normalised, start, send, monkeypatch, full_disk
):
    clients = [client(normalised, name) for name in NAMES[:3]]
    uploads = send(normalised, *clients)
    functions = begun(normalised, uploads, merge="median")
    monkeypatch.setattr(tempfile, "tempdir", str(full_disk))
    updates = feed(functions, uploads, normalised.model)
    next(updates)
    left = shutil.disk_usage(full_disk).free
    (full_disk / "filler").write_bytes(bytes(left))
    if seems_free:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    list(updates)
    monkeypatch.undo()
    (full_disk / "filler").unlink()
    expected = "No space left on device" if seems_free else "0 bytes are free, "
    assert functions.merged == ["id-a"]
    assert list(functions.skipped) == ["id-b", "id-c"]
    reason = f"cannot be written to the server's {full_disk}: {expected}"
    assert all(text.startswith(reason) for text in functions.skipped.values())
    assert os.listdir(functions.rule.spool.folder.name) == ["0"]
    model = functions.get_incremental_aggregate_model()
    assert_close(model, merged_by_oracle(normalised, clients[:1], CENTRES["median"]))


@pytest.mark.parametrize("chunk", [1, 7, 10, 1000])
def test_a_tensor_is_merged_in_chunks(chunk, monkeypatch, start):
    monkeypatch.setattr(stacked, "CHUNK", chunk)
    layout = {"indices": {"layer": [0, 1]}, "variances": {}, "parameters": {"layer": 30}}
    rule = RULES["median"]({})
    random = np.random.default_rng(0)
    model = [random.normal(size=(4, 5)), random.normal(size=10)]
    sent = [[random.normal(size=array.shape).astype(np.float32) for array in model] for _ in range(4)]
    rule.begin(Round(model, layout, {}))
    for arrays in sent:
        rule.add(Update(1, {"layer": arrays}, {"layer": 1}))
    for index, merged in enumerate(rule.merge("layer")):
        stack = np.array([arrays[index] for arrays in sent], np.float64)
        np.testing.assert_array_equal(merged, np.median(stack, axis=0))
    rule.end()
