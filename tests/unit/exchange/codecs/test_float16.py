"""Codec float16: rounded kernels, exact vectors."""

import numpy as np
import pytest
from updates import KERNELS, changed, decoded, encoded, flat, randoms, residuals, through_the_wire


def test_kernels_are_rounded_and_vectors_are_exact(tmp_path):
    values = randoms(flat(KERNELS))
    memory = residuals(tmp_path / "memory")
    for came, value in zip(through_the_wire(tmp_path, "float16", values, values, memory=memory), values, strict=True):
        wanted = value.astype(np.float16).astype(np.float32) if value.ndim > 1 else value
        np.testing.assert_array_equal(came, wanted, strict=True)
    assert not (tmp_path / "memory").exists()


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("index", range(4))
def test_values_that_are_not_finite_are_refused(tmp_path, number, index):
    values = randoms(flat(KERNELS))
    values[index].reshape(-1)[5] = number
    with pytest.raises(ValueError, match=f"has values in {'aabb'[index]} that are not finite .* the local training"):
        through_the_wire(tmp_path, "float16", values, values)


def test_values_beyond_float16_are_refused(tmp_path):
    values = randoms(flat(KERNELS))
    values[2][3, 4] = -65536
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="has values in b that are not finite"):
        through_the_wire(tmp_path, "float16", values, values)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a, b: [a, b[:-1]], r"has an invalid kernel of shape \(40, 12\) in b: truncated"),
        (lambda a, b: [a, np.append(b, b[:2])], "3274 bytes of kernels, expected 28 and 3272 for its layers a, b"),
        (lambda a, b: [a, b.view(np.float16)], "<f2.*expected .*u1"),
        (lambda a, b: [a, b, b], "expected .*u1"),
        (lambda a, b: [a[1:], b], "has 27 float32 values, expected 28 or more for b"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, reason):
    values = randoms(flat(KERNELS))
    update = encoded(tmp_path, "float16", values, values)
    with pytest.raises(ValueError, match=reason):
        decoded(*changed(*update, change), values)
