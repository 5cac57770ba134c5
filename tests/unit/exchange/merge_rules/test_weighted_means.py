"""Weighted means and BatchNormalization's statistics in FEDn's own hooks service; see hooks_harness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from server_functions.server_oracles import assert_close, assert_same_bits, log_lines, moments, stepped
from server_functions.server_worlds import client

WEIGHTED = ("all_clients", "contributors", "shrunk", "inverse_probability")
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


@pytest.mark.parametrize("rule", WEIGHTED)
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
