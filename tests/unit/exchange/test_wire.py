"""Digests of the global model."""

import numpy as np
import pytest
from updates import randoms

from fedn_partial.exchange import wire


def test_digest_is_equal_for_equal_models():
    weights = randoms([(2, 3), (3,), (0,), ()])
    assert wire.digest(weights) == wire.digest([weight.copy(order="F") for weight in weights])


@pytest.mark.parametrize(
    "change",
    [
        lambda a, b: [np.nextafter(a, np.float32(9)), b],
        lambda a, b: [a.reshape(3, 2), b],
        lambda a, b: [a.view(np.int32), b],
        lambda a, b: [b, a],
        lambda a, b: [a],
        lambda a, b: [a, b, b[:0]],
    ],
    ids=["values", "shape", "dtype", "order", "fewer", "more"],
)
def test_digest_changes_with_the_model(change):
    a, b = randoms([(2, 3), (6,)])
    assert wire.digest(change(a, b)) != wire.digest([a, b])


def test_digest_changes_with_one_bit():
    (weights,) = randoms([(50,)])
    flipped = weights.copy()
    flipped.view(np.uint32)[49] ^= 1
    assert wire.digest([flipped]) != wire.digest([weights])
