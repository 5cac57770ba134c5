"""Merging of coded updates and of a global model in float16 in FEDn's own hooks service; see hooks_harness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from server_functions.server_oracles import RULES, assert_same_bits, coded, merged_by_hand
from server_functions.server_worlds import client


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
