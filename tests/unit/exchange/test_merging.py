"""Merging in FEDn's own hooks service, fed by FEDn's own combiner code; see hooks_harness."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from server_functions import hooks_harness
from server_functions.server_oracles import RULES, assert_close, assert_same_bits, merged_by_hand
from server_functions.server_worlds import PROVIDED, SELECTIONS, client

from fedn_partial.exchange import model_file
from fedn_partial.submodel.layers import tensor_list


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


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("rule", RULES)
def test_partial_updates_merge_by_the_formula(rule, selection, normalised, start, send):
    clients = [client(normalised, *one) for one in SELECTIONS[selection]]
    result = start(normalised, merge=rule).round(normalised.model, send(normalised, *clients))
    assert_close(result.model, merged_by_hand(normalised, clients, rule))


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
