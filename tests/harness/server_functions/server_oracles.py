"""The merge rules' formulas, in float64 over the whole weights of every client, and comparisons with them."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
from fedn.network.combiner import modelservice
from fedn.network.combiner.aggregators.fedavg import Aggregator
from fedn.network.combiner.updatehandler import UpdateHandler
from fedn.utils.helpers.plugins.numpyhelper import Helper

from server_functions import hooks_harness
from server_functions.server_worlds import Client, World

RULES = ("all_clients", "contributors")


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
