"""Codec float32: exact, and decoded without a copy."""

import tracemalloc

import numpy as np
import pytest
from updates import KERNELS, changed, decoded, encoded, flat, randoms, residuals, through_the_wire

from fedn_partial.exchange import encoding

BASE = randoms(flat(KERNELS), 2)


def test_everything_comes_back_bit_by_bit(tmp_path):
    values = randoms(flat(KERNELS))
    values[0][0, 0, 0, :3] = -0.0, np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    for came, value in zip(through_the_wire(tmp_path, "float32", values, BASE), values, strict=True):
        assert (came.shape, came.dtype, came.tobytes()) == (value.shape, np.float32, value.tobytes())


def test_decoded_tensors_are_no_second_copy(tmp_path):
    arrays, metadata = encoded(tmp_path, "float32", randoms(flat(KERNELS)), BASE)
    for tensor in decoded(arrays, metadata, BASE):
        assert np.shares_memory(tensor, arrays[1 if tensor.ndim > 1 else 0])
        assert tensor.flags.aligned


def test_nothing_is_kept_for_the_next_round(tmp_path):
    memory = residuals(tmp_path / "memory")
    through_the_wire(tmp_path, "float32", randoms(flat(KERNELS)), BASE, memory=memory)
    assert not (tmp_path / "memory").exists()


class Variable:
    """Like Keras' variables, convertible to an array, which is a copy."""

    def __init__(self, shape):
        self.shape = shape

    def __array__(self, dtype=None, copy=None):
        return np.ones(self.shape, dtype)


@pytest.mark.parametrize("codec", ["float32", "float16"])
def test_kernels_are_encoded_one_by_one_while_they_are_written(tmp_path, codec):
    """A device lacks memory for a second copy of all."""
    shape, path = (250, 1000), str(tmp_path / "update")  # 1 MB
    encoding.encode(path, [Variable((2, 2))], codec)  # imports and caches
    tracemalloc.start()
    try:
        encoding.encode(path, [Variable(shape) for _ in range(8)], codec)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < {"float32": 1.2e6, "float16": 1.7e6}[codec]  # float16: the kernel and its data


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a, b: [a, b[:-1]], r"invalid kernel of shape \(40, 12\) in b: truncated, ends at byte 6536 of 6535"),
        (lambda a, b: [a, b[:4612]], r"invalid kernel of shape \(40, 12\) in b: truncated"),
        (lambda a, b: [a, b[:0]], r"invalid kernel of shape \(3, 3, 8, 16\) in a: truncated"),
        (lambda a, b: [a, np.append(b, b[:1])], "6537 bytes of kernels, expected 28 and 6536 for its layers a, b"),
        (lambda a, b: [a, b[4612:]], r"\(3, 3, 8, 16\) in a: 1920 bytes, expected 4608$"),
        (lambda a, b: [a, with_length(b, 0)], r"in a: 0 bytes, expected 4608$"),
        (lambda a, b: [a, with_length(b, 2**32 - 1)], "in a: truncated, ends at byte 4294967299 of 6536"),
        (lambda a, b: [a, with_length(b, 4612)], r"in a: 4612 bytes, expected 4608$"),
        (lambda a, b: [a[:-1], b], "has 27 float32 values, expected 28 or more for b"),
        (lambda a, b: [np.append(a, a[:1]), b], "has 29 float32 values and 6536 bytes of kernels, expected 28 and"),
        (lambda a, b: [a, with_value(b, np.nan)], "has values in a that are not finite"),
        (lambda a, b: [a, with_value(b, -np.inf)], "has values in a that are not finite"),
    ],
)
def test_what_does_not_fit_is_refused_for_its_layer(tmp_path, change, reason):
    update = encoded(tmp_path, "float32", randoms(flat(KERNELS)), BASE)
    with pytest.raises(ValueError, match=reason):
        decoded(*changed(*update, change), BASE)


def with_length(coded, length):
    """Return the bytes of kernels with another length of the first one."""
    return np.append(np.frombuffer(length.to_bytes(4, "little"), np.uint8), coded[4:])


def with_value(coded, value):
    """Return the bytes of kernels with another first value."""
    return np.concatenate([coded[:4], np.float32([value]).view(np.uint8), coded[8:]])
