"""The objective of a case on its way to every client, and in the rounds of a device and of simulated clients."""

import json
import os
import tempfile
import uuid

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest
from device import Device

from fedn_partial import models
from fedn_partial.client.simulation import workers
from fedn_partial.data.shard import Shard, write_shard
from fedn_partial.device import device_limits
from fedn_partial.exchange import wire
from fedn_partial.runtime.device_round import DeviceClient
from fedn_partial.runtime.round import Client, run_round
from fedn_partial.runtime.task import Request
from fedn_partial.seed_model import server_functions
from fedn_partial.settings import case as cases
from fedn_partial.submodel.layers import read_layers
from fedn_partial.training import local_training
from fedn_partial.training.step import StepSettings
from fedn_partial.training.terms.proximal import Proximal

MODEL = {"name": "lstm_har", "classes": 4}
PROXIMAL = {"name": "proximal", "mu": 0.5}
RAW = {
    "name": "c",
    "model": MODEL,
    "selection": {"selector": "all"},
    "training": {"epochs": 3, "batch_size": 16, "learning_rate": 0.01},
}


@pytest.fixture
def shard():
    random = np.random.default_rng(1)
    x, y = random.random((60, 1, 36), dtype=np.float32), random.integers(0, 4, 60).astype(np.int32)
    return Shard(x[:50], y[:50], x[50:], y[50:], ("sit", "walk", "sleep", "eat"))


@pytest.fixture(autouse=True)
def no_model_is_kept():
    """As in a process that has just started."""
    workers._model_cache.clear()
    workers._step_cache.clear()
    yield
    workers._model_cache.clear()
    workers._step_cache.clear()


class GlobalModel:
    """A global model with weights of `seed`, in a file."""

    def __init__(self, folder, seed):
        self.seed, self.path = seed, str(folder / f"model-{seed}.npz")
        self.weights = self.build().get_weights()
        np.savez(self.path, **{str(index): array for index, array in enumerate(self.weights)})

    def build(self):
        keras.utils.set_random_seed(self.seed)
        return models.build(MODEL)

    def settings(self, objective) -> cases.RoundSettings:
        """The settings of a round as a device reads them from what the server functions send."""
        case = cases.parse_case({**RAW, **({"objective": objective} if objective else {})}, "case")
        sent = server_functions.session_settings(
            case, read_layers(self.build()), uuid.uuid4().hex, wire.digest(self.weights)
        )
        functions = server_functions.load(server_functions.source(sent))()
        functions.client_selection(["id"])
        message = json.dumps(functions.client_settings(self.weights))
        return cases.load_round_settings(json.loads(message), cases.Device(data="unused"))


@pytest.fixture
def global_models(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where server functions keep their state
    return [GlobalModel(tmp_path, seed) for seed in (1, 2)]


def trained_directly(global_model, shard, order, *terms):
    """The weights and the loss of a round without all that is around the training."""
    model = global_model.build()
    layers, settings = read_layers(model), StepSettings(cases.Training(**RAW["training"]), terms=terms)
    result = local_training.train(model, layers, layers, shard.x_train, shard.y_train, settings, order)
    return flat(model.get_weights()).tobytes(), result.loss


def flat(arrays):
    """All values in one array, as in an update."""
    return np.concatenate([array.ravel() for array in arrays])


def read_update(path, weights):
    """All values of an update of all layers, in the order of the model's `weights`."""
    with np.load(path) as archive:
        vectors, kernels = archive["0"], archive["1"].tobytes()
    values, position, offset = [], 0, 0
    for array in weights:
        if array.ndim > 1:
            values.append(np.frombuffer(kernels, "<f4", array.size, offset + 4))
            offset += 4 + array.nbytes
        else:
            values.append(vectors[position : position + array.size])
            position += array.size
    assert (position, offset) == (vectors.size, len(kernels))
    return np.concatenate(values)


def order_of(settings, client):
    return np.random.default_rng([settings.seed, settings.round, *client.encode()])


class Rounds:
    """Rounds of one client, by run_round."""

    def __init__(self, folder, shard):
        self.folder = folder
        write_shard(folder / "data", shard, "made up")

    def simulated(self, settings, global_model):
        task = workers.Task("a", settings, global_model.path, str(self.folder / "data"), str(self.folder / "state"))
        return self.run(workers.SimulatedClient(task), settings, global_model)

    def fresh(self, settings, global_model):
        return self.run(Client("a", self.folder / "data", self.folder / "state"), settings, global_model)

    def run(self, client, settings, global_model):
        update = str(self.folder / "update.npz")
        result = run_round(settings, client, global_model.path, update)
        return read_update(update, global_model.weights).tobytes(), result.loss


@pytest.fixture
def rounds(tmp_path, shard):
    return Rounds(tmp_path, shard)


@pytest.mark.parametrize("decoupled", [False, True], ids=["coupled", "decoupled"])
def test_a_simulated_round_equals_the_training_alone_with_the_term(decoupled, global_models, rounds, shard):
    global_model = global_models[0]
    settings = global_model.settings({**PROXIMAL, "decoupled": decoupled})
    ours = rounds.simulated(settings, global_model)
    assert ours == trained_directly(global_model, shard, order_of(settings, "a"), Proximal(0.5, decoupled))
    assert ours != rounds.simulated(global_model.settings(None), global_model)


def test_rounds_in_one_process_equal_those_of_fresh_ones(global_models, rounds):
    """Other global models, and other objectives: a step that was traced for one serves no other by mistake."""
    first, second = global_models
    objectives = (PROXIMAL, None, {**PROXIMAL, "mu": 5.0}, {**PROXIMAL, "decoupled": True})
    expected, steps = [], set()
    for objective in objectives:
        for global_model in (first, second):
            settings = global_model.settings(objective)
            expected.append(rounds.fresh(settings, global_model))
            assert rounds.simulated(settings, global_model) == expected[-1]
            steps.add(id(next(reversed(workers._step_cache.values()))))
    assert len(steps) == len(objectives)  # one for both global models
    assert len({str(result) for result in expected}) == len(expected)
    assert rounds.simulated(first.settings(PROXIMAL), first) == expected[0]


def test_a_round_of_a_device_equals_the_training_alone_with_the_term(tmp_path, shard):
    device = Device(tmp_path, shard=shard)
    device.start_client()
    try:
        device.run("startup")
        device.write_model(selection={"selector": "all"}, training=RAW["training"], objective=PROXIMAL)
        assert device.run("train", "model.npz", "update.npz") == 0
        metadata = device.metadata()
        assert "refused" not in metadata
    finally:
        device.process.kill()
    settings = json.loads((device.folder / "model.npz-metadata").read_text())
    order = np.random.default_rng([settings["seed"], settings["round"], *b"device-1"])
    global_model = GlobalModel(tmp_path, 1)
    expected, loss = trained_directly(global_model, shard, order, Proximal(0.5))
    update, expected = (
        read_update(device.folder / "update.npz", global_model.weights),
        np.frombuffer(expected, np.float32),
    )
    # The device adds in another order where it has more threads; without the term the weights differ by far more.
    np.testing.assert_allclose(update, expected, rtol=0, atol=1e-5)
    order = np.random.default_rng([settings["seed"], settings["round"], *b"device-1"])
    plain, _ = trained_directly(global_model, shard, order)
    assert np.abs(np.frombuffer(plain, np.float32) - expected).max() > 1e-3
    assert metadata["train_loss"] == pytest.approx(loss, rel=1e-5)


def test_the_planner_of_a_device_has_the_terms(tmp_path, global_models, monkeypatch):
    planners = []

    def record(device, settings, context, planner, free_bytes):
        planners.append(planner)
        raise InterruptedError

    monkeypatch.setattr(device_limits, "select_within_limits", record)
    request = Request("train", "model.npz", "update.npz", os.getpid(), None)
    for objective in (None, PROXIMAL):
        settings = global_models[0].settings(objective)
        client = DeviceClient(request, cases.Device(data="data", workdir=str(tmp_path)), "a", settings)
        with pytest.raises(InterruptedError):
            client.select(read_layers(global_models[0].build()), settings, 50)
    assert [planner.terms for planner in planners] == [(), (Proximal(0.5),)]
