"""Merge rule clipped in FEDn's own hooks service, with its formula in NumPy as oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from server_functions.server_oracles import assert_close, assert_same_bits, merged_by_hand
from server_functions.server_worlds import client

CLIP = 2.0
EVERYTHING = [("a", None, 30), ("b", None, 5), ("c", None, 120), ("d", None, 60)]
SESSION = (
    [("a", ["conv0", "dense"], 30), ("b", ["conv0"], 5), ("c", ["conv0"], 120)],
    EVERYTHING,
    [("a", ["conv1"], 30), ("b", ["conv0", "conv1"], 5), ("c", ["dense"], 17)],
)


def near(world, name, layers, examples, model, seed, size=0.1):
    """Return a client whose weights are near those of `model`; its variances stay positive."""
    sender = client(world, name, layers, examples, seed=seed)
    weights = [old + np.float32(size) * np.abs(new) for old, new in zip(model, sender.weights, strict=True)]
    return replace(sender, weights=weights)


def parts_of(layer):
    """Return the parts of a layer with norms of their own, {part: its tensors}."""
    moving = {tensor.name: [tensor] for tensor in layer.tensors if tensor.statistic}
    return {layer.name: [tensor for tensor in layer.tensors if not tensor.statistic], **moving}


def size(model, tensors):
    if tensors[0].name.endswith("/moving_mean"):
        return np.sqrt(model[tensors[0].index + 1].astype(np.float64).sum())
    return norm(model, tensors)


def norm(arrays, tensors):
    return np.sqrt(sum((arrays[tensor.index].astype(np.float64) ** 2).sum() for tensor in tensors))


def clipped(world, clients, model, history):
    """Return the clients with clipped changes, and add the norms to `history`."""
    sent = {one.name: [array.astype(np.float64) for array in one.weights] for one in clients}
    for layer in world.layers:
        senders = [one for one in clients if layer.name in one.layers]
        for part, tensors in parts_of(layer).items() if senders else ():
            norms = {}
            for one in senders:
                change = [new - old for new, old in zip(sent[one.name], model, strict=True)]
                norms[one.name] = norm(change, tensors)
            if part in history:
                limit = CLIP * np.median(history[part])
            elif len(norms) >= 3:
                limit = CLIP * np.median(list(norms.values()))
            else:
                limit = size(model, tensors)
            for name, value in norms.items():
                for tensor in tensors:
                    old = model[tensor.index]
                    sent[name][tensor.index] = old + min(1, limit / value) * (sent[name][tensor.index] - old)
            history[part] = (history.get(part, []) + [min(value, limit) for value in norms.values()])[-20:]
    return [replace(one, weights=sent[one.name]) for one in clients]


def test_a_session_follows_the_formula(normalised, start, send):
    combiner, model, history = start(normalised, merge="clipped", clip=CLIP), normalised.model, {}
    for number, trained in enumerate([*SESSION, *SESSION]):
        clients = [
            near(normalised, *one, model, seed=10 * number + n, size=0.1 * 5**n) for n, one in enumerate(trained)
        ]
        expected = merged_by_hand(normalised, clipped(normalised, clients, model, history), "all_clients", model)
        if number == 3:  # the norms survive
            combiner.restart_hooks()
        model = combiner.round(model, send(normalised, *clients, base=model)).model
        for array, wanted in zip(model, expected, strict=True):
            np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-6)


def test_it_is_all_clients_as_long_as_no_change_is_large(normalised, start, send):
    models = {}
    for rule in ("clipped", "all_clients"):
        combiner, model = start(normalised, merge=rule, key=rule, clip=1000.0), normalised.model
        for number in range(2):
            clients = [near(normalised, *one, model, seed=10 * number + n) for n, one in enumerate(EVERYTHING)]
            model = combiner.round(model, send(normalised, *clients, base=model)).model
        models[rule] = model
    assert_same_bits(models["clipped"], models["all_clients"])


@pytest.mark.parametrize("factor", [10, 1e6, -1, 0])
@pytest.mark.parametrize("number", [0, 1])
def test_a_wrong_client_moves_a_layer_no_further_than_clip_times_the_others(number, factor, normalised, start, send):
    """Also its BatchNormalization statistics, in the first round and later."""
    combiner, model = start(normalised, merge="clipped", clip=CLIP), normalised.model
    for earlier in range(number):
        clients = [near(normalised, *one, model, seed=n + 50 * earlier) for n, one in enumerate(EVERYTHING)]
        model = combiner.round(model, send(normalised, *clients, base=model)).model
    clients = [near(normalised, *one, model, seed=100 + n) for n, one in enumerate(EVERYTHING)]
    wrong = [array * np.float32(factor) for array in clients[-1].weights]
    for tensor in normalised.layer("conv0").tensors:
        if tensor.name.endswith("moving_variance"):
            wrong[tensor.index] = np.abs(wrong[tensor.index])
    clients[-1] = replace(clients[-1], weights=wrong)
    result = combiner.round(model, send(normalised, *clients, base=model)).model
    for layer in normalised.layers:
        for part, tensors in parts_of(layer).items():
            if part.endswith("moving_variance"):  # pooled with the means
                continue
            changes = [
                norm([new - old for new, old in zip(one.weights, model, strict=True)], tensors) for one in clients
            ]
            moved = norm([new - old for new, old in zip(result, model, strict=True)], tensors)
            assert moved <= 1.6 * CLIP * max(changes[:-1]), part  # clip times the median of this round or the last


def test_variances_of_a_wrong_client_are_limited(normalised, start, send):
    combiner, model = start(normalised, merge="clipped", clip=CLIP), normalised.model
    variance = normalised.tensor("conv0_bn/moving_variance")
    clients = [near(normalised, *one, model, seed=n) for n, one in enumerate(EVERYTHING)]
    model = combiner.round(model, send(normalised, *clients, base=model)).model
    clients = [near(normalised, *one, model, seed=100 + n) for n, one in enumerate(EVERYTHING)]
    honest = merged_by_hand(normalised, clients, "all_clients", model)[variance]
    clients[0].weights[variance] *= 100
    spoilt = merged_by_hand(normalised, clients, "all_clients", model)[variance]
    result = combiner.round(model, send(normalised, *clients, base=model)).model[variance]
    assert (result > 0).all()
    assert np.abs(result - honest).max() < 0.05 * np.abs(spoilt - honest).max()


def test_a_layer_of_zeros_may_begin(normalised, start, send):
    model = [np.zeros_like(array) if array.ndim > 1 else array for array in normalised.model]
    for tensor in normalised.layer("dense").tensors:
        model[tensor.index] = np.zeros(tensor.shape, np.float32)
    a = client(normalised, "a", ["dense"])
    combiner = start(normalised, merge="clipped", model=model)
    assert_close(
        combiner.round(model, send(normalised, a, base=model)).model,
        merged_by_hand(normalised, [a], "all_clients", model),
    )


def test_the_history_is_bounded_and_clients_without_a_change_are_not_in_it(normalised, start, send):
    combiner, model = start(normalised, merge="clipped"), normalised.model
    for number in range(7):
        clients = [near(normalised, *one, model, seed=10 * number + n) for n, one in enumerate(EVERYTHING)]
        clients[0] = replace(clients[0], weights=model)
        model = combiner.round(model, send(normalised, *clients, base=model)).model
    memory = combiner.hooks.server_functions.state["memory"]
    assert len(memory) == 5 and all(len(norms) == 20 and min(norms) > 0 for norms in memory.values())
