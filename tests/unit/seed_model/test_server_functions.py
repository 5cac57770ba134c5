"""The server functions in FEDn's own hooks service, fed by FEDn's own combiner code; see hooks_harness.

The oracle is the merge rules' formulas, written out below in float64 over the whole weights of every client.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zlib
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import hooks_harness
import numpy as np
import pytest
from fedn.network.combiner import modelservice
from fedn.network.combiner.aggregators.fedavg import Aggregator
from fedn.network.combiner.hooks import hooks
from fedn.network.combiner.updatehandler import UpdateHandler
from fedn.utils.helpers.plugins.numpyhelper import Helper
from hooks_harness import Combiner, Upload, npz

from fedn_partial import exchange
from fedn_partial.exchange import encoding, model_file, wire
from fedn_partial.runtime import refusal
from fedn_partial.runtime.residuals import residuals
from fedn_partial.seed_model import server_functions
from fedn_partial.settings.case import MERGE_RULES, Case, Device, RoundSettings, Session, Training, load_round_settings
from fedn_partial.submodel.layers import fingerprint, pick, read_layers, tensor_list
from fedn_partial.submodel.update_tensors import tensors_of, update_tensors

RULES = ("all_clients", "contributors")
PROVIDED = {"client_selection": True, "client_settings": True, "aggregate": False, "incremental_aggregate": True}


PROBABLE = {"conv0": 0.25, "conv1": 0.5, "dense": 0.05}  # said by every client; only one merge rule asks


# The models of the tests


@dataclass(frozen=True)
class World:
    """A small model: its layers and a global model of random values."""

    layers: list
    model: list

    @property
    def names(self) -> list[str]:
        return [layer.name for layer in self.layers]

    def layer(self, name: str):
        return next(layer for layer in self.layers if layer.name == name)

    def tensor(self, name: str) -> int:
        """Return the index of a tensor."""
        return next(tensor.index for layer in self.layers for tensor in layer.tensors if tensor.name == name)


def make_world(*keras_layers) -> World:
    import keras

    layers = read_layers(keras.Sequential(keras_layers))
    return World(layers, random_model(layers, seed=0))


@pytest.fixture(scope="module")
def normalised() -> World:
    """Convolution, BatchNormalization, convolution, dense: three layers."""
    from keras import Input
    from keras.layers import BatchNormalization, Conv2D, Dense, Flatten

    return make_world(
        Input((6, 6, 1)),
        Conv2D(3, 3, name="conv0"),
        BatchNormalization(name="conv0_bn"),
        Conv2D(2, 3, name="conv1"),
        Flatten(),
        Dense(4, name="dense"),
    )


@pytest.fixture(scope="module")
def plain() -> World:
    """A model without BatchNormalization."""
    from keras import Input
    from keras.layers import Conv2D, Dense, Flatten

    return make_world(Input((5, 5, 1)), Conv2D(2, 3, name="conv"), Flatten(), Dense(3, name="dense"))


def random_model(layers, seed: int) -> list[np.ndarray]:
    """Return weights of the model, with moving variances above 0."""
    rng = np.random.default_rng(seed)
    model = []
    for tensor in tensor_list(layers):
        values = rng.normal(size=tensor.shape)
        model.append((values**2 + 0.1 if tensor.name.endswith("moving_variance") else values).astype(np.float32))
    return model


# Sessions and clients


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start sessions: a function that returns a combiner. All that FEDn and the session keep lies in tmp_path."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("FEDN_MODEL_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(modelservice, "CHUNK_SIZE", 512)  # so that also these models travel in many chunks
    return lambda world, **options: Combiner(session_source(world.layers, **{"model": world.model, **options}))


def session_source(layers, *, model=(), warmup_rounds=0, key="session", **changes) -> str:
    selection = {"selector": "uniform", "layers": 2, "warmup_rounds": warmup_rounds}
    case = Case(**{"name": "test", "model": {"name": "vgg16"}, "selection": selection, **changes})
    return server_functions.source(server_functions.session_settings(case, layers, key, wire.digest(model)))


@dataclass(frozen=True)
class Client:
    """A client in one round: which layers it trained, to which weights, with how many examples."""

    name: str
    layers: list[str]
    examples: int
    weights: list  # of the whole model; only those of `layers` are sent


def client(world: World, name: str, trained=None, examples=10, seed=None) -> Client:
    """Return a client that trained the layers called `trained` (all, if None) to random weights."""
    weights = random_model(world.layers, seed=zlib.crc32(name.encode()) if seed is None else seed)
    return Client(name, world.names if trained is None else trained, examples, weights)


@pytest.fixture
def send(tmp_path):
    """Write clients' updates as devices do: a function that returns their uploads."""

    def send(world: World, *clients: Client, base=None, codec="float32", statistics="with_layer") -> list[Upload]:
        uploads = []
        parts = update_tensors(world.layers, statistics)
        base = world.model if base is None else base
        for sender in clients:
            path = str(tmp_path / f"update-{sender.name}")
            selected = pick(world.layers, sender.layers)
            sent = tensors_of(selected, parts)
            tensors = [tensor for name in sent for tensor in sent[name]]
            checksum = encoding.encode(
                path,
                [sender.weights[tensor.index] for tensor in tensors],
                codec,
                base=[base[tensor.index] for tensor in tensors],
                residuals=residuals(tmp_path / "residuals", sender.name, tensors),
            )
            encoding.write_metadata(
                path,
                {
                    "num_examples": sender.examples,
                    "model": fingerprint(world.layers),
                    "base": wire.digest(base),
                    "client": sender.name,
                    "layers": list(sent),
                    "codec": codec,
                    "checksum": checksum,
                    "probabilities": PROBABLE,
                    "resources": {"seconds": 1.5},
                },
            )
            uploads.append(read_upload(f"id-{sender.name}", path))
        return uploads

    return send


def read_upload(client_id: str, path: str) -> Upload:
    with open(path, "rb") as data, open(path + "-metadata") as metadata:
        return Upload(client_id, data.read(), json.load(metadata))


# The oracle


def merged_by_hand(world: World, clients: list[Client], rule: str, model=None) -> list[np.ndarray]:
    """Return the global model that the merge rules' formulas give, in float64."""
    model = world.model if model is None else model
    expected = [array.astype(np.float64) for array in model]
    for layer in world.layers:
        senders = [one for one in clients if layer.name in one.layers]
        if not senders:
            continue
        total = sum(one.examples for one in (clients if rule == "all_clients" else senders))
        for tensor in layer.tensors:
            old = model[tensor.index].astype(np.float64)
            change = sum(one.examples * (one.weights[tensor.index].astype(np.float64) - old) for one in senders)
            expected[tensor.index] = old + change / total
        for tensor in layer.tensors:
            if not tensor.name.endswith("/moving_variance"):
                continue
            mean_index = world.tensor(tensor.name.replace("/moving_variance", "/moving_mean"))
            parts = [(one.examples, one.weights) for one in senders]
            parts.append((total - sum(one.examples for one in senders), model))  # clients that did not send it
            shares = np.array([examples / total for examples, _ in parts])
            means = np.array([weights[mean_index] for _, weights in parts], np.float64)
            variances = np.array([weights[tensor.index] for _, weights in parts], np.float64)
            expected[tensor.index] = shares @ (variances + means**2) - (shares @ means) ** 2
    return expected


def assert_close(model, expected) -> None:
    assert model is not None, "FEDn failed the round"
    assert len(model) == len(expected)
    for array, wanted in zip(model, expected, strict=True):
        assert array.dtype == np.float32
        assert array.shape == wanted.shape
        np.testing.assert_allclose(array, wanted, rtol=1e-6)


def assert_same_bits(model, expected) -> None:
    assert model is not None, "FEDn failed the round"
    assert [array.dtype for array in model] == [array.dtype for array in expected]
    assert [array.shape for array in model] == [array.shape for array in expected]
    assert [array.tobytes() for array in model] == [array.tobytes() for array in expected]


def log_lines(caplog, words: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


# Merging


@pytest.mark.parametrize("rule", RULES)
def test_a_round_in_which_everyone_sends_everything_is_fedavg(rule, plain, start, send):
    clients = [client(plain, "a", examples=30), client(plain, "b", examples=5), client(plain, "c", examples=120)]
    result = start(plain, merge=rule).round(plain.model, send(plain, *clients))
    expected = [
        np.average([one.weights[i].astype(np.float64) for one in clients], axis=0, weights=[30, 5, 120])
        for i in range(len(plain.model))
    ]
    assert_close(result.model, expected)


@pytest.mark.parametrize("rule", RULES)
def test_fedavg_with_batchnormalization_pools_the_variances(rule, normalised, start, send):
    clients = [client(normalised, name, examples=n) for name, n in (("a", 30), ("b", 5), ("c", 120))]
    result = start(normalised, merge=rule).round(normalised.model, send(normalised, *clients))
    mean, variance = normalised.tensor("conv0_bn/moving_mean"), normalised.tensor("conv0_bn/moving_variance")
    assert (mean, variance) == (4, 5)  # kernel, bias, gamma, beta, moving mean, moving variance
    stacks = [np.array([one.weights[i] for one in clients], np.float64) for i in range(len(normalised.model))]
    expected = [np.average(stack, axis=0, weights=[30, 5, 120]) for stack in stacks]
    second_moment = np.average(stacks[variance] + stacks[mean] ** 2, axis=0, weights=[30, 5, 120])
    expected[variance] = second_moment - expected[mean] ** 2
    assert_close(result.model, expected)


def coded(sender: Client, model, codec: str) -> Client:
    """Return the client with the weights that the server can see, by the codec's definition."""
    weights = []
    for value, old in zip(sender.weights, model, strict=True):
        if codec == "float16" and value.ndim > 1:
            value = value.astype(np.float16).astype(np.float32)
        elif codec == "int8" and value.ndim > 1:
            change = (value - old).astype(np.float64)
            step = np.abs(change).reshape(-1, change.shape[-1]).max(axis=0) / 127
            value = old + np.round(change / step) * step
        weights.append(value)
    return replace(sender, weights=weights)


@pytest.mark.parametrize("codec", ["float16", "int8"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("everything", [True, False])
def test_coded_updates_merge_by_the_same_formula(codec, rule, everything, normalised, start, send):
    names = normalised.names
    clients = [
        client(normalised, "a", names if everything else ["conv0", "dense"], examples=30),
        client(normalised, "b", names if everything else ["dense"], examples=5),
    ]
    combiner = start(normalised, merge=rule, codec=codec)
    result = combiner.round(normalised.model, send(normalised, *clients, codec=codec))
    seen = [coded(one, normalised.model, codec) for one in clients]
    for array, wanted in zip(result.model, merged_by_hand(normalised, seen, rule), strict=True):
        np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-6)
    if everything:  # federated averaging, whatever the codec
        kernel = normalised.tensor("dense/kernel")
        stack = [one.weights[kernel] for one in seen]
        np.testing.assert_allclose(result.model[kernel], np.average(stack, axis=0, weights=[30, 5]), rtol=1e-5)


@pytest.mark.parametrize("codec", ["float32", "float16", "int8"])
def test_a_global_model_kept_as_float16_is_merged_in_float64(codec, normalised, start, send):
    model = [array.astype(np.float16) if array.ndim > 1 else array for array in normalised.model]
    clients = [client(normalised, "a", ["dense"], 30), client(normalised, "b", ["conv0", "dense"], 5)]
    combiner = start(normalised, model=model, codec=codec, model_dtype="float16")
    result = combiner.round(model, send(normalised, *clients, base=model, codec=codec))
    seen = [coded(one, model, codec) for one in clients]
    expected = merged_by_hand(normalised, seen, "all_clients", model)
    for array, old, wanted in zip(result.model, model, expected, strict=True):
        assert array.dtype == old.dtype
        np.testing.assert_allclose(array, wanted, rtol=2**-11 if array.ndim > 1 else 1e-6, atol=1e-6)
    for tensor in normalised.layer("conv1").tensors:
        assert result.model[tensor.index].tobytes() == model[tensor.index].tobytes()


def test_weights_that_float16_cannot_hold_do_not_reach_such_a_model(normalised, start, send):
    model = [array.astype(np.float16) if array.ndim > 1 else array for array in normalised.model]
    diverged = client(normalised, "a", ["dense"])
    diverged = replace(diverged, weights=[array * np.float32(1e5) for array in diverged.weights])
    result = start(normalised, model=model, model_dtype="float16").round(model, send(normalised, diverged, base=model))
    assert_same_bits(result.model, model)


SELECTIONS = {
    "overlapping": [("a", ["conv0", "dense"], 30), ("b", ["dense"], 5), ("c", ["conv1", "dense"], 120)],
    "disjoint": [("a", ["conv0"], 1), ("b", ["conv1"], 2), ("c", ["dense"], 3)],
    "two of three send BatchNormalization": [("a", ["conv0"], 7), ("b", ["conv0", "conv1"], 400), ("c", ["dense"], 50)],
    "one client": [("a", ["conv0", "conv1"], 17)],
}


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("rule", RULES)
def test_partial_updates_merge_by_the_formula(rule, selection, normalised, start, send):
    clients = [client(normalised, *one) for one in SELECTIONS[selection]]
    result = start(normalised, merge=rule).round(normalised.model, send(normalised, *clients))
    assert_close(result.model, merged_by_hand(normalised, clients, rule))


def moments(weights, tensor: str, world: World):
    """The mean and E[x^2] of a BatchNormalization's statistics."""
    mean = weights[world.tensor("conv0_bn/moving_mean")].astype(np.float64)
    return mean, weights[world.tensor("conv0_bn/moving_variance")].astype(np.float64) + mean**2


def stepped(world: World, clients: list[Client], steps: dict[str, float]) -> list[np.ndarray]:
    """Return the model that goes `steps` of the way to the mean of those who sent each layer (statistics at most 1)."""
    expected = [array.astype(np.float64) for array in world.model]
    for layer in world.layers:
        senders = [one for one in clients if layer.name in one.layers]
        if not senders:
            continue
        examples, step = [one.examples for one in senders], steps[layer.name]
        for tensor in layer.tensors:
            mean = np.average([one.weights[tensor.index].astype(np.float64) for one in senders], 0, examples)
            share = min(step, 1.0) if tensor.statistic else step
            expected[tensor.index] += share * (mean - expected[tensor.index])
        if layer.normalised:
            share = min(step, 1.0)
            mine = np.average([moments(one.weights, layer.name, world)[1] for one in senders], 0, examples)
            moment = (1 - share) * moments(world.model, layer.name, world)[1] + share * mine
            mean = expected[world.tensor("conv0_bn/moving_mean")]
            expected[world.tensor("conv0_bn/moving_variance")] = moment - mean**2
    return expected


MIXED = [("a", ["conv0", "dense"], 30), ("b", ["conv0", "conv1"], 5), ("c", ["conv0"], 120)]


@pytest.mark.parametrize("shrinkage", [0.0, 0.5, 2.0])
def test_shrunk_goes_further_the_more_clients_sent_a_layer(shrinkage, normalised, start, send):
    clients = [client(normalised, *one) for one in MIXED]
    result = start(normalised, merge="shrunk", shrinkage=shrinkage).round(normalised.model, send(normalised, *clients))
    steps = {name: m / (m + shrinkage) for name, m in {"conv0": 3, "conv1": 1, "dense": 1}.items()}
    assert_close(result.model, stepped(normalised, clients, steps))


def test_shrunk_by_nothing_is_contributors(normalised, start, send):
    clients = [client(normalised, *one) for one in MIXED]
    models = [
        start(normalised, key=rule, merge=rule, shrinkage=0.0).round(normalised.model, send(normalised, *clients)).model
        for rule in ("shrunk", "contributors")
    ]
    assert_same_bits(*models)


def test_inverse_probability_counts_rare_layers_more(normalised, start, send):
    clients = [client(normalised, *one) for one in MIXED]
    result = start(normalised, merge="inverse_probability").round(normalised.model, send(normalised, *clients))
    # sum of n_k / p over the senders, over sum of n_k of all; dense says 0.05, which counts as 0.1
    steps = {"conv0": 155 / 0.25 / 155, "conv1": 5 / 0.5 / 155, "dense": 30 / 0.1 / 155}
    assert_close(result.model, stepped(normalised, clients, steps))


def test_inverse_probability_is_unbiased_over_the_draws(plain, start, send):
    """The mean over all 2 x 2 draws of two clients, each weighted with its probability, is FedAvg of full updates."""
    whole = [client(plain, "a", examples=30), client(plain, "b", examples=10)]
    expected = [
        np.average([one.weights[index].astype(np.float64) for one in whole], 0, [30, 10])
        for index in range(len(plain.model))
    ]
    chance = {("conv",): 0.25, ("dense",): 0.75}
    total = [np.zeros(array.shape) for array in plain.model]
    for number, (first, second) in enumerate((a, b) for a in chance for b in chance):
        clients = [replace(one, layers=list(drawn)) for one, drawn in zip(whole, (first, second), strict=True)]
        uploads = [
            replace(upload, metadata={**upload.metadata, "probabilities": {"conv": 0.25, "dense": 0.75}})
            for upload in send(plain, *clients)
        ]
        result = start(plain, key=f"draw{number}", merge="inverse_probability").round(plain.model, uploads)
        for sums, array in zip(total, result.model, strict=True):
            sums += chance[first] * chance[second] * array
    for array, wanted in zip(total, expected, strict=True):
        np.testing.assert_allclose(array, wanted, rtol=1e-5)


@pytest.mark.parametrize("given", [None, {}, {"conv0": 0, "dense": 1}, {"conv0": "1"}, {"conv0": True}, {"conv0": 1.5}])
def test_inverse_probability_skips_who_does_not_say_it(given, normalised, start, send, caplog):
    good, bad = client(normalised, "good", ["conv0"]), client(normalised, "bad", ["conv0"])
    uploads = send(normalised, good, bad)
    uploads[1] = replace(uploads[1], metadata={**uploads[1].metadata, "probabilities": given})
    result = start(normalised, merge="inverse_probability").round(normalised.model, uploads)
    assert_close(result.model, stepped(normalised, [good], {"conv0": 1 / 0.25}))
    assert log_lines(caplog, "skipped the update of bad: has probability")


def test_a_step_beyond_what_was_sent_stays_finite(normalised, start, send):
    uploads = [client(normalised, "a", ["dense"], seed=1)]
    uploads[0].weights[normalised.tensor("dense/kernel")][:] = 3e38
    result = start(normalised, merge="inverse_probability").round(normalised.model, send(normalised, *uploads))
    assert all(np.isfinite(array).all() for array in result.model)


@pytest.mark.parametrize("rule", MERGE_RULES)
def test_statistics_that_are_always_sent_are_the_mean_of_all(rule, normalised, start, send):
    clients = [client(normalised, "a", ["conv1"], 30), client(normalised, "b", ["dense"], 90)]
    combiner = start(normalised, merge=rule, batchnorm_statistics="always")
    result = combiner.round(normalised.model, send(normalised, *clients, statistics="always"))
    pairs = [moments(one.weights, "conv0", normalised) for one in clients]
    mean, moment = (np.average([pair[place] for pair in pairs], 0, [30, 90]) for place in (0, 1))
    np.testing.assert_allclose(result.model[normalised.tensor("conv0_bn/moving_mean")], mean, rtol=1e-6)
    variance = result.model[normalised.tensor("conv0_bn/moving_variance")]
    np.testing.assert_allclose(variance, moment - mean**2, rtol=1e-6)
    for name in ("conv0/kernel", "conv0_bn/gamma"):
        assert_same_bits([result.model[normalised.tensor(name)]], [normalised.model[normalised.tensor(name)]])
    told = combiner.round(result.model, []).settings["previous"]
    assert told["staleness"] == {"conv0": 1}


def test_local_statistics_are_not_sent_and_stay_as_they_are(normalised, start, send):
    clients = [client(normalised, "a", ["conv0"], 30), client(normalised, "b", None, 90)]
    uploads = send(normalised, *clients, statistics="local")
    result = start(normalised, batchnorm_statistics="local").round(normalised.model, uploads)
    for name in ("conv0_bn/moving_mean", "conv0_bn/moving_variance"):
        assert_same_bits([result.model[normalised.tensor(name)]], [normalised.model[normalised.tensor(name)]])
    kernel = normalised.tensor("conv0/kernel")
    expected = np.average([one.weights[kernel].astype(np.float64) for one in clients], 0, [30, 90])
    np.testing.assert_allclose(result.model[kernel], expected, rtol=1e-6)


def test_an_update_with_statistics_that_this_session_keeps_local_is_skipped(normalised, start, send, caplog):
    uploads = send(normalised, client(normalised, "a", ["conv0"]))
    start(normalised, batchnorm_statistics="local").round(normalised.model, uploads)
    assert log_lines(caplog, "skipped the update of a: has ")


def test_silent_clients_pull_the_batchnormalization_to_the_global_model(normalised, start, send):
    clients = [client(normalised, "a", ["conv0"], 30), client(normalised, "b", ["dense"], 90)]
    result = start(normalised).round(normalised.model, send(normalised, *clients))
    mean, variance = 4, 5
    mine, old = ([w[i].astype(np.float64) for i in (mean, variance)] for w in (clients[0].weights, normalised.model))
    merged_mean = 0.25 * mine[0] + 0.75 * old[0]
    merged_variance = 0.25 * (mine[1] + mine[0] ** 2) + 0.75 * (old[1] + old[0] ** 2) - merged_mean**2
    np.testing.assert_allclose(result.model[mean], merged_mean, rtol=1e-6)
    np.testing.assert_allclose(result.model[variance], merged_variance, rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_a_layer_that_nobody_sent_keeps_its_bits(rule, normalised, start, send):
    clients = [client(normalised, "a", ["conv1"], 3), client(normalised, "b", ["conv1"], 7)]
    model = [array.copy() for array in normalised.model]
    model[0].flat[:3] = [-0.0, 1e-42, 0.1]  # minus zero, a subnormal: values that arithmetic might not leave alone
    combiner = start(normalised, model=model, merge=rule)
    result = combiner.round(model, send(normalised, *clients, base=model))
    for name in ("conv0", "dense"):
        indices = [tensor.index for tensor in normalised.layer(name).tensors]
        assert_same_bits([result.model[i] for i in indices], [model[i] for i in indices])
    for tensor in normalised.layer("conv1").tensors:
        assert not np.array_equal(result.model[tensor.index], model[tensor.index])


@pytest.mark.parametrize("rule", RULES)
def test_the_number_of_examples_is_the_weight(rule, plain, start, send):
    a, b = client(plain, "a", examples=1), client(plain, "b", examples=999)
    result = start(plain, merge=rule).round(plain.model, send(plain, a, b))
    for array, of_a, of_b in zip(result.model, a.weights, b.weights, strict=True):
        np.testing.assert_allclose(array, 0.001 * of_a.astype(np.float64) + 0.999 * of_b, rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_the_clients_does_not_matter(rule, normalised, start, send):
    uploads = send(normalised, *(client(normalised, *one) for one in SELECTIONS["overlapping"]))
    forwards = start(normalised, merge=rule, key="one").round(normalised.model, uploads)
    backwards = start(normalised, merge=rule, key="two").round(normalised.model, uploads[::-1])
    assert_close(backwards.model, forwards.model)


def test_the_next_round_merges_into_the_model_of_the_last(normalised, start, send):
    combiner = start(normalised)
    first = [client(normalised, *one) for one in SELECTIONS["overlapping"]]
    model = combiner.round(normalised.model, send(normalised, *first)).model
    second = [client(normalised, *one, seed=index) for index, one in enumerate(SELECTIONS["disjoint"])]
    result = combiner.round(model, send(normalised, *second, base=model))
    assert_close(result.model, merged_by_hand(normalised, second, "all_clients", model=model))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("statistic, value", [("moving_variance", -1.0), ("moving_mean", 1e25)])
def test_odd_but_finite_statistics_leave_a_model_that_clients_accept(rule, statistic, value, normalised, start, send):
    clients = [client(normalised, "a"), client(normalised, "b")]
    clients[0].weights[normalised.tensor(f"conv0_bn/{statistic}")][:] = value
    with np.errstate(over="ignore"):
        result = start(normalised, merge=rule).round(normalised.model, send(normalised, *clients))
    with BytesIO() as file:  # what every client does with it
        np.savez(file, **{str(index): array for index, array in enumerate(result.model)})
        file.seek(0)
        list(model_file.read_model(file, tensor_list(normalised.layers)))
    assert (result.model[normalised.tensor("conv0_bn/moving_variance")] >= 0).all()
    alone = start(normalised, merge=rule, key="alone").round(normalised.model, send(normalised, clients[1]))
    for merged, expected in zip(result.model, alone.model, strict=True):
        assert np.array_equal(merged, expected), "the update with these statistics was not skipped"


# Updates that must be skipped


def with_metadata(**changes):
    """Return a change of an upload's metadata; a value of None leaves the key out."""

    def change(upload: Upload) -> Upload:
        metadata = {**upload.metadata, **changes}
        return Upload(
            upload.client_id, upload.data, {key: value for key, value in metadata.items() if value is not None}
        )

    return change


def with_arrays(make):
    """Return a change of an upload's arrays; the checksum is made to fit, so that it is not the reason."""

    def change(upload: Upload) -> Upload:
        values = np.load(BytesIO(upload.data))["0"]
        arrays = make(values)
        checksum = zlib.crc32(np.ascontiguousarray(arrays[0]).data) if arrays else 0
        return Upload(upload.client_id, npz(arrays), {**upload.metadata, "checksum": checksum})

    return change


def with_value(value):
    def make(values):
        values[3] = value
        return [values]

    return with_arrays(make)


def without_metadata(upload: Upload) -> Upload:
    return Upload(upload.client_id, upload.data, {})


def flip_one_bit(upload: Upload) -> Upload:
    values = np.load(BytesIO(upload.data))["0"].copy()
    values.view(np.uint32)[3] ^= 1
    return Upload(upload.client_id, npz([values]), upload.metadata)


# What is changed in a good update of client b, and what its log line must say.
BAD = {
    "one value less": (with_arrays(lambda values: [values[:-1]]), "values, expected 78 for its layers conv0, dense"),
    "one value more": (with_arrays(lambda values: [np.append(values, values[:1])]), "values, expected 78"),
    "other layers' size": (with_metadata(layers=["conv1"]), "values, expected 56 for its layers conv1"),
    "float64": (with_arrays(lambda values: [values.astype(np.float64)]), "'<f8'"),
    "float16": (with_arrays(lambda values: [values.astype(np.float16)]), "'<f2'"),
    "big-endian": (with_arrays(lambda values: [values.astype(">f4")]), "'>f4'"),
    "integers of the same size": (with_arrays(lambda values: [values.view(np.int32)]), "'<i4'"),
    "text": (with_arrays(lambda values: [values.astype("U")[:5].view(np.uint32).view("U1")]), "'<U1'"),
    "two arrays": (with_arrays(lambda values: [values, values]), "expected ['<f4'] with one dimension each"),
    "two dimensions": (with_arrays(lambda values: [values[None]]), "expected ['<f4'] with one dimension each"),
    "no dimension": (with_arrays(lambda values: [values.sum()]), "expected ['<f4'] with one dimension each"),
    "no array": (with_arrays(lambda values: []), "expected ['<f4'] with one dimension each"),
    "empty array": (with_arrays(lambda values: [values[:0]]), "has 0 values"),
    "NaN": (with_value(np.nan), "not finite"),
    "infinity": (with_value(np.inf), "not finite"),
    "minus infinity": (with_value(-np.inf), "not finite"),
    "wrong base": (with_metadata(base="0" * 32), "is based on model"),
    "other session": (with_metadata(session="other"), "belongs to another session, 'other'"),
    "another round to come": (with_metadata(round=7), "is late: trained in round 7"),
    "no base": (with_metadata(base=None), "is based on model"),
    "wrong fingerprint": (with_metadata(model="0" * 16), "is for model"),
    "no fingerprint": (with_metadata(model=None), "is for model"),
    "wrong codec": (with_metadata(codec="float16"), "codec 'float16'"),
    "no codec": (with_metadata(codec=None), "codec None"),
    "wrong format": (with_metadata(format=1), "format 1"),
    "no format": (with_metadata(format=None), "format None"),
    "unknown layer": (with_metadata(layers=["conv0", "conv9"]), "'conv9'"),
    "layers out of order": (with_metadata(layers=["dense", "conv0"]), "in model order"),
    "a layer twice": (with_metadata(layers=["conv0", "conv0", "dense"]), "in model order"),
    "layers are text": (with_metadata(layers="conv0"), "has layers 'conv0'"),
    "layers are lists": (with_metadata(layers=[["conv0"], {}]), "has layers"),
    "no layer": (with_metadata(layers=[]), "has layers []"),
    "layers missing": (with_metadata(layers=None), "has layers None"),
    "one bit flipped": (flip_one_bit, "checksum"),
    "no checksum": (with_metadata(checksum=None), "checksum"),
    "refused": (with_metadata(refused="the memory is full"), "the client refused: the memory is full"),
    "no num_examples": (with_metadata(num_examples=None), "num_examples None"),
    **{
        f"num_examples {given!r}": (with_metadata(num_examples=given), f"num_examples {given!r}")
        for given in (120, 1.5, True, ["7"], "", "0", "-5", "+5", " 7", "1.5", "1e9", "99999999999", "abc", "²", "inf")
    },
    "num_examples too long for int()": (with_metadata(num_examples="9" * 5000), ""),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_update_is_skipped_and_named(kind, normalised, start, send, caplog):
    spoil, reason = BAD[kind]
    clients = [client(normalised, "a", ["conv0", "conv1"], 30), client(normalised, "c", ["dense"], 120)]
    good = send(normalised, *clients)
    (bad,) = send(normalised, client(normalised, "b", ["conv0", "dense"], 70))
    combiner = start(normalised, key="with it")
    result = combiner.round(normalised.model, [good[0], spoil(bad), good[1]])
    without = start(normalised, key="without it").round(normalised.model, good)
    assert_same_bits(result.model, without.model)
    assert_close(result.model, merged_by_hand(normalised, clients, "all_clients"))
    (line,) = log_lines(caplog, "skipped the update of b: ")
    assert reason in line
    assert combiner.provided_functions() == PROVIDED
    # The same client is welcome in the next round.
    (again,) = send(normalised, client(normalised, "b", ["conv0", "dense"], 70), base=result.model)
    following = combiner.round(result.model, [again])
    assert list(following.settings["previous"]["skipped"]) == ["id-b"]
    b = client(normalised, "b", ["conv0", "dense"], 70)
    assert_close(following.model, merged_by_hand(normalised, [b], "all_clients", model=result.model))


def test_an_update_with_empty_metadata_is_skipped_under_its_fedn_id(normalised, start, send, caplog):
    good, bad = send(normalised, client(normalised, "a"), client(normalised, "b"))
    result = start(normalised).round(normalised.model, [without_metadata(bad), good])
    assert_close(result.model, merged_by_hand(normalised, [client(normalised, "a")], "all_clients"))
    assert len(log_lines(caplog, "skipped the update of id-b: ")) == 1


def test_a_device_that_cannot_train_is_skipped_with_its_reason(normalised, start, send, tmp_path, caplog):
    path = str(tmp_path / "refusal")
    refusal.write_refusal(path, "the memory ran out")
    good = send(normalised, client(normalised, "a"))
    result = start(normalised).round(normalised.model, [read_upload("id-b", path), *good])
    assert_close(result.model, merged_by_hand(normalised, [client(normalised, "a")], "all_clients"))
    (line,) = log_lines(caplog, "skipped the update of id-b: ")
    assert line.endswith("the memory ran out")


def test_the_second_update_of_a_client_is_skipped(normalised, start, send, caplog):
    clients = [client(normalised, "a", examples=10), client(normalised, "b", examples=40)]
    (second,) = send(normalised, client(normalised, "a", ["dense"], 99, seed=5))
    result = start(normalised).round(normalised.model, [*send(normalised, *clients), second])
    assert_close(result.model, merged_by_hand(normalised, clients, "all_clients"))
    (line,) = log_lines(caplog, "skipped the update of a: ")
    assert "duplicate update" in line


def test_a_late_update_of_the_last_round_does_not_cost_the_one_of_this_round(normalised, start, send, caplog):
    combiner = start(normalised)
    a, b = client(normalised, "a"), client(normalised, "b")
    model = combiner.round(normalised.model, send(normalised, a)).model
    late = with_metadata(session="session", round=1)(*send(normalised, b))
    (timely,) = send(normalised, b, base=model)
    result = combiner.round(model, [late, timely])
    assert_close(result.model, merged_by_hand(normalised, [b], "all_clients", model=model))
    (line,) = log_lines(caplog, "skipped the update of b: ")
    assert "is late: trained in round 1" in line
    previous = combiner.round(result.model, []).settings["previous"]
    assert (previous["merged"], previous["skipped"], previous["late"]) == (["id-b"], {}, {"id-b": 1})


def test_a_round_of_bad_updates_leaves_everything_as_it_is(normalised, start, send, caplog):
    combiner = start(normalised)
    names = [f"device-{index}" for index in range(len(BAD))]
    uploads = send(normalised, *(client(normalised, name, ["conv0", "dense"]) for name in names))
    spoilt = [spoil(upload) for upload, (spoil, _) in zip(uploads, BAD.values(), strict=True)]
    result = combiner.round(normalised.model, spoilt)
    assert_same_bits(result.model, normalised.model)
    assert len(log_lines(caplog, "skipped the update of device-")) == len(BAD)
    assert combiner.provided_functions() == PROVIDED
    clients = [client(normalised, *one) for one in SELECTIONS["overlapping"]]
    following = combiner.round(result.model, send(normalised, *clients))
    assert sorted(following.settings["previous"]["skipped"]) == sorted(f"id-{name}" for name in names)
    assert following.settings["previous"]["merged"] == []
    assert_close(following.model, merged_by_hand(normalised, clients, "all_clients"))


def pickled(upload: Upload) -> bytes:
    file = BytesIO()
    np.savez(file, **{"0": np.array([{"a": 1}, None], dtype=object)})
    return file.getvalue()


def wrongly_named(upload: Upload) -> bytes:
    file = BytesIO()
    np.savez(file, weights=np.load(BytesIO(upload.data))["0"])
    return file.getvalue()


# Files that FEDn's numpyhelper cannot load, so that its hooks service raises before the server functions see them.
UNREADABLE = {
    "not a zip": lambda upload: b"<html>502 Bad Gateway</html>" * 100,
    "nothing": lambda upload: b"",
    "half": lambda upload: upload.data[: len(upload.data) // 2],
    "damaged": lambda upload: (
        upload.data[:300] + bytes(byte ^ 255 for byte in upload.data[300:340]) + upload.data[340:]
    ),
    "pickled": pickled,
    "wrongly named": wrongly_named,
}


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_unreadable_file_costs_no_other_client_and_no_other_round(kind, place, normalised, start, send, caplog):
    """FEDn's log has the reason, but no log says which client: the server functions are not even called."""
    a, b, c = (
        client(normalised, *one) for one in (("a", ["conv0"], 30), ("b", ["conv0", "dense"], 70), ("c", None, 2))
    )
    uploads = send(normalised, a, c)
    (bad,) = send(normalised, b)
    uploads.insert(place, Upload(bad.client_id, UNREADABLE[kind](bad), bad.metadata))
    combiner = start(normalised)
    result = combiner.round(normalised.model, uploads)
    assert_close(result.model, merged_by_hand(normalised, [a, c], "all_clients"))
    assert len(log_lines(caplog, "store_model failed")) == 1
    assert combiner.provided_functions() == PROVIDED
    following = combiner.round(result.model, send(normalised, a, b, c, base=result.model))
    assert following.settings["previous"]["merged"] == ["id-a", "id-c"]
    assert_close(following.model, merged_by_hand(normalised, [a, b, c], "all_clients", model=result.model))
    assert log_lines(caplog, "skipped the update of") == []


def test_a_good_update_after_an_unreadable_one_in_the_same_round_is_not_mispaired(normalised, start, send, caplog):
    """FEDn keeps the metadata of the unreadable one and pairs them with those of the next: nothing to merge."""
    a, b = client(normalised, "a", ["conv0"], 30), client(normalised, "b", ["conv0", "dense"], 70)
    good, bad = send(normalised, a, b)
    (late,) = send(normalised, client(normalised, "b", ["conv1"], 50))
    combiner = start(normalised)
    result = combiner.round(normalised.model, [Upload(late.client_id, b"", late.metadata), bad, good])
    assert_close(result.model, merged_by_hand(normalised, [a], "all_clients"))
    (line,) = log_lines(caplog, "skipped the update of b: ")
    assert "is not a model with its metadata" in line
    following = combiner.round(result.model, send(normalised, a, b, base=result.model))
    assert_close(following.model, merged_by_hand(normalised, [a, b], "all_clients", model=result.model))


def test_values_left_by_an_interrupted_round_are_not_merged_under_new_metadata(normalised, start, send, caplog):
    """As after a restart of the hooks process between a client's metadata and its model: same layers, same base."""
    a, b = client(normalised, "a", ["conv0"], 30), client(normalised, "b", ["dense"], 70)
    (old,) = send(normalised, client(normalised, "b", ["dense"], 70, seed=5))
    combiner = start(normalised)
    combiner.store(old.client_id, old.data)
    result = combiner.round(normalised.model, send(normalised, a, b))
    assert_close(result.model, merged_by_hand(normalised, [a], "all_clients"))
    (line,) = log_lines(caplog, "skipped the update of b: ")
    assert "checksum" in line


def test_what_an_interrupted_round_had_merged_is_forgotten(normalised, start, send):
    """As when the combiner dies before it asks for the new model."""
    combiner = start(normalised)
    combiner.provided_functions()
    old = with_metadata(session="session", round=1)(
        *send(normalised, client(normalised, "a", ["conv0", "dense"], 50, seed=5))
    )
    combiner.hooks.server_functions.client_selection(["id-a"])
    combiner.hooks.server_functions.client_settings(normalised.model)
    combiner.store("global_model", npz(normalised.model))
    combiner.store(old.client_id, old.data, old.metadata)
    assert combiner.hooks.server_functions.merged == ["id-a"]
    clients = [client(normalised, "a", ["conv0"], 30), client(normalised, "b", ["conv0", "conv1"], 70)]
    result = combiner.round(normalised.model, send(normalised, *clients))
    assert_close(result.model, merged_by_hand(normalised, clients, "all_clients"))


# Global models and clients that are not this session's


def whole(world: World, name: str, examples: int, seed: int) -> Upload:
    """Return the upload of one of FEDn's own clients: a whole model, compressed, and a number of examples."""
    file = BytesIO()
    np.savez_compressed(file, **{str(index): array for index, array in enumerate(random_model(world.layers, seed))})
    return Upload(f"id-{name}", file.getvalue(), {"num_examples": examples})


def test_a_client_that_was_not_asked_is_skipped_by_name(normalised, start, send, caplog):
    clients = [client(normalised, name, ["dense"]) for name in "abc"]
    combiner = start(normalised, session=Session(clients_per_round=2))
    result = combiner.round(normalised.model, send(normalised, *clients))
    asked = combiner.hooks.server_functions.state["asked"]
    drawn = [one for one in clients if f"id-{one.name}" in asked]
    assert_close(result.model, merged_by_hand(normalised, drawn, "all_clients"))
    (other,) = (one.name for one in clients if one not in drawn)
    assert log_lines(caplog, f"skipped the update of {other}: was not requested to train in this round")
    previous = combiner.round(result.model, []).settings["previous"]
    assert previous["skipped"] == {f"id-{other}": "was not requested to train in this round"}
    assert previous["notes"] == ["1 updates of clients that were not requested to train"]


def test_a_client_with_the_id_of_the_global_model_does_not_replace_it(normalised, start, send):
    """FEDn's hooks take a model under that id for the global one."""
    a = client(normalised, "a", ["dense"])
    uploads = [Upload("global_model", npz([array * 9 for array in normalised.model]), {}), *send(normalised, a)]
    result = start(normalised).round(normalised.model, uploads)
    assert_close(result.model, merged_by_hand(normalised, [a], "all_clients"))


def test_nothing_is_merged_into_a_model_of_somebody_else(normalised, start, send, caplog):
    combiner = start(normalised)
    a = client(normalised, "a", ["dense"])
    model = combiner.round(normalised.model, send(normalised, a)).model
    stranger = random_model(normalised.layers, seed=9)
    result = combiner.round(stranger, [*send(normalised, a, base=stranger), whole(normalised, "b", 5, seed=1)])
    assert result.settings == {} and result.model is None  # FEDn fails the round
    following = combiner.round(model, send(normalised, a, base=model))
    assert_close(following.model, merged_by_hand(normalised, [a], "all_clients", model=model))
    (note,) = following.settings["previous"]["notes"]
    assert note == "after this round, the global model does not belong to this session"
    assert len(log_lines(caplog, "the global model does not belong to this session, session;")) == 1


@pytest.mark.parametrize("when", ["another model", "its rounds are over"])
def test_in_a_session_of_others_models_are_averaged_as_fedn_does(when, normalised, start, send, tmp_path, monkeypatch):
    combiner = start(normalised, session=Session(rounds=1, clients_per_round=1))
    model = combiner.round(normalised.model, send(normalised, client(normalised, "a", ["dense"]))).model
    if when == "another model":
        model = [np.zeros((2, 2), np.float32)]
    uploads = [
        whole(normalised, name, examples, seed) for seed, (name, examples) in enumerate({"b": 5, "c": 120}.items())
    ]
    result = combiner.round(model, uploads)
    assert result.settings == {}
    assert_same_bits(result.model, stock_fedavg(uploads, tmp_path, monkeypatch))
    assert combiner.hooks.server_functions.state["round"] == 1


@pytest.mark.parametrize("first", [True, False])
def test_two_messages_do_not_replace_the_model_on_a_foreign_fedn(first, normalised, start, send, monkeypatch):
    """A message about a model that was never uploaded fails FEDn's aggregation; FEDn then averages by itself."""
    monkeypatch.setattr("fedn.network.combiner.updatehandler.time.sleep", lambda seconds: None)
    combiner = start(normalised)
    a = client(normalised, "a", ["dense"])
    attack = [Upload("id-x", None, {"num_examples": 1}), whole(normalised, "y", 10**6, seed=1)]
    uploads = attack + send(normalised, a) if first else send(normalised, a) + attack
    result = combiner.round(normalised.model, uploads)
    assert result.model is None  # FEDn fails the round and keeps the model
    assert combiner.handler.update_handler.model_updates.empty()  # what is left would end the next round at once
    following = combiner.round(normalised.model, send(normalised, a))
    assert_close(following.model, merged_by_hand(normalised, [a], "all_clients"))


def test_a_kept_model_is_taken_again_after_a_round_that_was_not_committed(normalised, start, send):
    """As when the object store is gone while FEDn commits."""
    combiner = start(normalised)
    a = client(normalised, "a", ["dense"])
    combiner.round(normalised.model, send(normalised, a))
    again = combiner.round(normalised.model, send(normalised, a))
    assert_close(again.model, merged_by_hand(normalised, [a], "all_clients"))


def test_a_hooks_process_that_is_restarted_while_clients_train_goes_on_with_the_round(normalised, start, send):
    combiner = start(normalised)
    clients = [client(normalised, "a", ["conv0"], 30), client(normalised, "b", ["conv0", "dense"], 70)]

    def restart():
        combiner.restart_hooks()
        combiner.provided_functions()  # as our combiner does before it has the round merged

    result = combiner.round(normalised.model, send(normalised, *clients), during=restart)
    assert_close(result.model, merged_by_hand(normalised, clients, "all_clients"))
    (note,) = combiner.round(result.model, []).settings["previous"]["notes"]
    assert note.startswith("the hooks process was restarted")


@pytest.mark.parametrize("clients", [1500, 30_000])
def test_the_settings_fit_a_message_whatever_clients_say(clients, normalised, start):
    combiner = start(normalised, selection={"selector": "stratified", "layers": 2})
    combiner.provided_functions()
    functions = combiner.hooks.server_functions
    ids = [f"{number:036d}" for number in range(clients)]
    functions.client_selection(ids)
    functions.client_settings(normalised.model)
    for client_id in ids:
        functions.skip(client_id, {"client": "\u4e00" * 300, "refused": ""}, "\U0001f600" * 1000)
        functions.state["names"][client_id] = "\U0001f600" * 100
    model = functions.get_incremental_aggregate_model()
    told = functions.client_settings(model)
    assert len(json.dumps(told)) < 1_100_000
    assert load_round_settings(told, Device(data="unused")).round == 2


# Rounds in which nothing arrives


def test_a_round_without_updates_leaves_the_model_as_it_is(normalised, start, send):
    combiner = start(normalised)
    result = combiner.round(normalised.model, [])
    assert_same_bits(result.model, normalised.model)
    assert combiner.provided_functions() == PROVIDED
    clients = [client(normalised, *one) for one in SELECTIONS["overlapping"]]
    following = combiner.round(normalised.model, send(normalised, *clients))
    assert following.settings["round"] == 2
    assert_close(following.model, merged_by_hand(normalised, clients, "all_clients"))


def test_an_aggregation_out_of_turn_gives_an_error_and_no_model(normalised, start, send):
    combiner = start(normalised)
    clients = [client(normalised, *one) for one in SELECTIONS["overlapping"]]
    combiner.round(normalised.model, send(normalised, *clients))
    context = hooks_harness.Context()
    request = hooks_harness.fedn_pb2.AggregationRequest(aggregate="aggregate")
    assert list(combiner.hooks.HandleAggregation(request, context)) == []
    assert context.code == hooks_harness.grpc.StatusCode.FAILED_PRECONDITION  # makes FEDn fail the round
    assert combiner.provided_functions() == PROVIDED
    following = combiner.round(normalised.model, send(normalised, *clients))
    assert_close(following.model, merged_by_hand(normalised, clients, "all_clients"))


# What the clients are told


def test_participants_are_named_once_they_have_sent_an_update(normalised, start, send):
    combiner = start(normalised, selection={"selector": "stratified", "layers": 2})
    uploads = send(normalised, client(normalised, "a"), client(normalised, "b"))
    first = combiner.round(normalised.model, uploads)
    assert first.settings["participants"] == ["id-a", "id-b"]
    base = first.model
    newcomers = send(normalised, client(normalised, "a"), client(normalised, "c"), base=base)
    second = combiner.round(base, newcomers)
    assert second.settings["participants"] == ["a", "id-c"]  # b is not connected any more


def test_scores_are_the_relative_change_that_clients_made(normalised, start, send):
    clients = [client(normalised, "a", ["conv1"], 30), client(normalised, "b", ["conv0", "conv1", "dense"], 90)]
    combiner = start(normalised, selection={"selector": "scored", "layers": 2})
    result = combiner.round(normalised.model, send(normalised, *clients))
    assert result.settings["scores"] == {}
    told = combiner.round(result.model, []).settings["scores"]
    expected = {}
    for name, senders in {"conv0": clients[1:], "conv1": clients, "dense": clients[1:]}.items():
        indices = [tensor.index for tensor in normalised.layer(name).tensors if not tensor.statistic]
        old = np.concatenate([normalised.model[index].ravel() for index in indices])
        changes = [np.concatenate([one.weights[index].ravel() for index in indices]) - old for one in senders]
        squares = [np.sum(change.astype(np.float64) ** 2) for change in changes]
        expected[name] = np.sqrt(np.average(squares, weights=[one.examples for one in senders])) / np.linalg.norm(old)
    assert told == pytest.approx(expected, rel=1e-5)


def test_as_many_clients_as_the_session_says_are_drawn_each_round(normalised, start, send):
    names = [f"id-{number}" for number in range(10)]
    combiner = start(normalised, session=Session(rounds=99, clients_per_round=4))
    combiner.provided_functions()
    functions, drawn = combiner.hooks.server_functions, []
    for _ in range(50):
        drawn.append(functions.client_selection(names[::-1]))
        functions.client_settings(normalised.model)
    assert all(len(set(asked)) == 4 and set(asked) <= set(names) for asked in drawn)
    assert {name for asked in drawn for name in asked} == set(names)
    assert len({tuple(asked) for asked in drawn}) > 20
    assert functions.client_selection(names[:3]) == names[:3]


def test_the_settings_are_what_a_client_reads(normalised, start, send):
    combiner = start(normalised, warmup_rounds=1)
    told = combiner.round(normalised.model, send(normalised, client(normalised, "a"))).settings
    settings = load_round_settings(told, Device(data="unused"))
    assert settings == RoundSettings(
        round=1,
        warmup=True,
        seed=1,
        model={"name": "vgg16"},
        fingerprint=fingerprint(normalised.layers),
        base=wire.digest(normalised.model),
        selection={"selector": "uniform", "layers": 2, "warmup_rounds": 1},
        codec="float32",
        session_id="session",
        session=Session(),
        training=Training(),
        previous={},
    )


def test_rounds_count_up_and_the_base_is_that_of_the_model(normalised, start, send):
    combiner = start(normalised)
    model = normalised.model
    for number in (1, 2, 3):
        uploads = send(normalised, client(normalised, "a", seed=number), base=model)
        result = combiner.round(model, uploads)
        assert result.settings["round"] == number
        assert result.settings["base"] == wire.digest(model)
        assert result.settings["fingerprint"] == fingerprint(normalised.layers)
        load_round_settings(result.settings, Device(data="unused"))
        model = result.model


def test_warmup_ends_after_as_many_rounds_that_merged_something(normalised, start, send):
    combiner = start(normalised, warmup_rounds=2)
    good = send(normalised, client(normalised, "a", ["conv0"]))
    bad = [with_metadata(base="0" * 32)(good[0])]
    rounds = [combiner.round(normalised.model, uploads) for uploads in (good, bad, [], good, good, good)]
    assert [one.settings["warmup"] for one in rounds] == [True, True, True, True, False, False]


def test_the_round_before_is_told_with_coverage_and_staleness(normalised, start, send):
    combiner = start(normalised)
    selections = [["conv0", "dense"], ["dense"], ["conv0", "dense"], ["conv0"]]
    told = []
    for trained in selections:
        good, other, bad = send(
            normalised,
            client(normalised, "a", trained),
            client(normalised, "b", trained[:1]),
            client(normalised, "c", ["conv1"]),
        )
        uploads = [good, with_metadata(codec="float16")(bad), other]
        told.append(combiner.round(normalised.model, uploads).settings["previous"])
    told.append(combiner.round(normalised.model, []).settings["previous"])
    assert told[0] == {}
    ages = [{"conv1": 1}, {"conv0": 1, "conv1": 2}, {"conv1": 3}, {"conv1": 4, "dense": 1}]
    for number, (previous, age) in enumerate(zip(told[1:], ages, strict=True), start=1):
        assert previous["round"] == number
        assert previous["merged"] == ["id-a", "id-b"]
        assert list(previous["skipped"]) == ["id-c"]
        assert "codec 'float16'" in previous["skipped"]["id-c"]
        assert previous["staleness"] == age


def test_coverage_is_logged(normalised, start, send, caplog):
    start(normalised).round(normalised.model, send(normalised, client(normalised, "a", ["dense"])))
    (line,) = log_lines(caplog, "coverage")
    assert "1 merged, 0 skipped, coverage 1 of 3 layers, staleness: conv0 1, conv1 1" in line


# Restart of the hooks process


def test_a_restarted_hooks_process_goes_on_where_the_old_one_was(normalised, start, send):
    combiner = start(normalised, warmup_rounds=2)
    good = send(normalised, client(normalised, "a", ["conv0"]))
    combiner.round(normalised.model, good)
    combiner.round(normalised.model, [])
    combiner.restart_hooks()
    told = combiner.round(normalised.model, good).settings
    assert told["round"] == 3
    assert told["warmup"] is True
    assert told["previous"] == {
        "round": 2,
        "merged": [],
        "skipped": {},
        "late": {},
        "notes": [],
        "staleness": {"conv0": 1, "conv1": 2, "dense": 2},
    }
    combiner.restart_hooks()
    told = combiner.round(normalised.model, good).settings
    assert told["round"] == 4
    assert told["warmup"] is False
    assert (told["previous"]["round"], told["previous"]["merged"]) == (3, ["id-a"])
    assert told["previous"]["staleness"] == {"conv1": 3, "dense": 3}


def test_another_session_starts_from_round_1(normalised, start, send):
    good = send(normalised, client(normalised, "a", ["conv0"]))
    start(normalised, key="one").round(normalised.model, good)
    told = start(normalised, key="two").round(normalised.model, good).settings
    assert (told["round"], told["previous"]) == (1, {})


def test_a_restart_while_clients_train_makes_no_wrong_model(normalised, start, send):
    """The new process has no server functions until the next round, so FEDn fails this one.

    FEDn's hooks service also keeps what it got meanwhile, and so loses these clients' next updates, without a word.
    """
    combiner = start(normalised)
    clients = [client(normalised, "a", ["conv0"], 30), client(normalised, "b", ["conv0", "dense"], 70)]
    uploads = send(normalised, *clients)
    assert combiner.round(normalised.model, uploads, during=combiner.restart_hooks).model is None
    second = combiner.round(normalised.model, uploads)
    assert second.settings["round"] == 2
    assert_same_bits(second.model, normalised.model)
    third = combiner.round(second.model, uploads)
    assert_close(third.model, merged_by_hand(normalised, clients, "all_clients"))


BROKEN_STATES = {
    "empty": b"",
    "cut off": b'{"round": 3, "merged_rou',
    "not text": b"\xff\xfe\x00\x93",
    "a number": b"7",
    "null": b"null",
    "a list": b"[]",
    "without keys": b"{}",
    "of an older version": b'{"round": 3}',
    "round is text": b'{"round": "3", "merged_rounds": 1, "staleness": {}, "previous": {}}',
    "staleness is a list": b'{"round": 3, "merged_rounds": 1, "staleness": [], "previous": {}}',
}


@pytest.mark.parametrize("kind", [*BROKEN_STATES, "a folder"])
def test_a_broken_state_file_costs_the_count_only(kind, normalised, start, send):
    combiner = start(normalised)
    combiner.provided_functions()
    path = combiner.hooks.server_functions.state_path()
    assert path.startswith(tempfile.gettempdir())
    if kind == "a folder":
        hooks.os.mkdir(path)
    else:
        with open(path, "wb") as file:
            file.write(BROKEN_STATES[kind])
    combiner.restart_hooks()
    clients = [client(normalised, "a", ["conv0"], 30), client(normalised, "b", ["conv0", "dense"], 70)]
    result = combiner.round(normalised.model, send(normalised, *clients))
    load_round_settings(result.settings, Device(data="unused"))
    assert_close(result.model, merged_by_hand(normalised, clients, "all_clients"))
    assert combiner.provided_functions() == PROVIDED


# The generated source


@pytest.fixture(scope="module")
def vgg16_source() -> str:
    from fedn_partial import models

    return session_source(read_layers(models.build({"name": "vgg16", "width": 0.25})))


def test_the_settings_are_read_back_from_the_source(vgg16_source):
    assert server_functions.read_settings(vgg16_source) == server_functions.load(vgg16_source).settings
    for text in ("class ServerFunctions: pass", "settings = print(1)"):
        with pytest.raises(ValueError):
            server_functions.read_settings(text)


def test_the_source_is_small(vgg16_source):
    assert len(vgg16_source) < 20_000  # every client downloads it in every round


def test_the_source_needs_numpy_and_the_standard_library_only(vgg16_source, tmp_path):
    """In a process in which neither this package nor FEDn can be imported."""
    (tmp_path / "text.py").write_text(vgg16_source)
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['fedn_partial', 'fedn', 'keras', 'tensorflow', 'yaml']))\n"
        "namespace = {}; exec(open('text.py').read(), {}, namespace)\n"
        "print(namespace['ServerFunctions']().client_selection(['b', 'a']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "['a', 'b']\n", done.stderr


def test_an_error_names_the_line_of_the_module(vgg16_source):
    functions = server_functions.load(vgg16_source)()
    with pytest.raises(RuntimeError, match="no update has arrived") as error:
        functions.get_incremental_aggregate_model()
    frame = error.traceback[-1]
    line = (Path(exchange.__file__).parent / "server.py").read_text().splitlines()[frame.lineno]
    assert Path(frame.path).name == "server.py" and "no update has arrived" in line


def test_fedn_finds_exactly_the_functions_that_are_meant(vgg16_source, start):
    combiner = Combiner(vgg16_source)
    assert combiner.provided_functions() == PROVIDED  # a failed exec would make all of them False


# The log


HOSTILE = {
    "lines": "no memory\r\n2026-01-01 [INFO] fedn-partial: all is well\u2028\x0b\x85" * 200,
    "long": "x" * 10_000,
    "terminal": "\x1b[2J\x1b[1;1Hnothing to see\x08\x00" * 200,
    "half a character": "\ud800" * 200,
}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("place", ["refused", "client", "client of a good update", "codec"])
def test_a_client_cannot_write_more_than_a_line_into_the_log(place, text, normalised, start, send, caplog):
    (upload,) = send(normalised, client(normalised, "a"))
    changes = {
        "refused": {"refused": HOSTILE[text]},
        "client": {"refused": "no memory", "client": HOSTILE[text]},
        "client of a good update": {"client": HOSTILE[text]},
        "codec": {"codec": HOSTILE[text]},
    }[place]
    combiner = start(normalised)
    combiner.round(normalised.model, [with_metadata(**changes)(upload)])
    told = combiner.round(normalised.model, []).settings
    assert len(json.dumps(told["previous"])) < 6_000  # goes to every client; JSON needs six letters for one
    wanted = "merged 3 layers of" if place == "client of a good update" else "skipped the update of"
    (line,) = log_lines(caplog, wanted)
    assert len(line) < 1_000
    assert len(line.splitlines()) == 1
    assert line.isprintable()  # no control characters, and nothing that a stream cannot encode


# When the hooks process is down, FEDn falls back to its own FedAvg


def stock_fedavg(uploads, tmp_path, monkeypatch):
    """Return the model that FEDn's FedAvg makes of these updates."""
    monkeypatch.setenv("FEDN_MODEL_DIR", str(tmp_path / "models"))
    models = modelservice.ModelService()
    handler = UpdateHandler(models)
    for index, upload in enumerate(uploads):
        models.set_model(BytesIO(upload.data), f"update-{index}")
        handler.on_model_update(hooks_harness.model_update(upload.client_id, f"update-{index}", upload.metadata))
    assert handler.model_updates.qsize() == len(uploads)
    model, _ = Aggregator(handler).combine_models(helper=Helper(), delete_models=False)
    assert handler.model_updates.empty()
    return model


def test_stock_fedavg_makes_no_model_of_our_updates(normalised, send, tmp_path, monkeypatch, caplog):
    uploads = send(normalised, client(normalised, "a", examples=30), client(normalised, "b", ["conv0"], 5))
    path = str(tmp_path / "refusal")
    refusal.write_refusal(path, "the memory ran out")
    uploads.append(read_upload("id-c", path))
    assert stock_fedavg(uploads, tmp_path, monkeypatch) is None
    assert len(log_lines(caplog, "unsupported operand type(s) for +=: 'int' and 'str'")) >= len(uploads)
    # With numbers it does, and that would be a global model of one array: the text is what stops it.
    numbers = [with_metadata(num_examples=7)(upload) for upload in uploads[:1]]
    assert len(stock_fedavg(numbers, tmp_path, monkeypatch)) == 1


@pytest.mark.parametrize("when", ["before the round", "while the clients train"])
def test_with_the_hooks_down_the_round_fails(when, normalised, start, send):
    combiner = start(normalised)
    clients = [client(normalised, *one) for one in SELECTIONS["overlapping"]]
    uploads = send(normalised, *clients)
    if when == "before the round":
        combiner.stop_hooks()
        result = combiner.round(normalised.model, uploads)
        assert result.settings == {}
    else:
        result = combiner.round(normalised.model, uploads, during=combiner.stop_hooks)
    assert result.model is None
    combiner.restart_hooks()
    following = combiner.round(normalised.model, uploads)
    assert_close(following.model, merged_by_hand(normalised, clients, "all_clients"))


def made(world, **options):
    """Return the server functions of a session, without FEDn; the fixture `start` says where they keep their state."""
    return server_functions.load(session_source(world.layers, **{"model": world.model, **options}))()


def test_a_strange_model_in_a_running_session_never_becomes_the_global_one(normalised, start):
    """Whole models with counts, as FEDn's own clients send them, in the names of the asked clients."""
    functions = made(normalised, session=Session(clients_per_round=1))
    functions.client_selection(["id-a", "id-b"])
    strange = [np.zeros_like(array) for array in normalised.model]
    assert functions.client_settings(strange) == {}
    functions.incremental_aggregate("id-a", strange, {"num_examples": 10}, strange)
    with pytest.raises(RuntimeError, match="does not belong to this session"):
        functions.get_incremental_aggregate_model()
    assert functions.state["previous"]["notes"] == [
        "after this round, the global model does not belong to this session"
    ]
    assert functions.state["previous"]["round"] == 0
    assert len(functions.client_selection(["id-a", "id-b"])) == 1


def test_made_up_ids_cost_no_outcome(normalised, start):
    functions = made(normalised)
    functions.client_selection(["id-a"])
    functions.client_settings(normalised.model)
    for number in range(1000):
        late = {"round": 0, "session": functions.client["session_id"]}
        functions.skip(f"{number}" + "x" * 100_000 * (number % 2), late, "x")
    assert len(functions.skipped) + len(functions.late) <= 20 and functions.unrequested == 1000
    assert max(map(len, functions.skipped)) <= 100
