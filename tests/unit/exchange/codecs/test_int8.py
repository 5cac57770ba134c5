"""Codec int8: half a step of error in a round, nothing lost over the rounds, and no input that breaks it."""

import tracemalloc
import zlib

import numpy as np
import pytest
from updates import KERNELS, after, changed, decoded, encoded, flat, randoms, residuals, through_the_wire

FLOAT32 = np.finfo(np.float32)
SHAPE = (40, 12)
STEPS = np.full(12, 0.25, "<f4")
MULTIPLES = np.arange(480).astype(np.int8)


def test_values_are_within_half_a_step_of_each_channel_and_vectors_are_exact(tmp_path):
    base, values = randoms(flat(KERNELS), 1), randoms(flat(KERNELS), 2)
    values[0][..., 3] = base[0][..., 3]  # an output channel that did not change
    for came, value, old in zip(through_the_wire(tmp_path, "int8", values, base), values, base, strict=True):
        assert came.dtype == np.float32
        if value.ndim == 1:
            assert came.tobytes() == value.tobytes()
            continue
        change = (value - old).reshape(-1, value.shape[-1])
        error = np.abs(came - value).reshape(-1, value.shape[-1]).max(axis=0)
        assert (error <= np.abs(change).max(axis=0) / 127 / 2 + 1e-6).all()
        assert error.max() > 1e-4, "nothing was rounded"
    assert values[0][..., 3].tobytes() == through_the_wire(tmp_path, "int8", values, base)[0][..., 3].tobytes()


def test_nothing_is_lost_over_the_rounds(tmp_path):
    """Error feedback: the sum of what arrived differs from the sum of the changes by one round's rounding at most."""
    memory = residuals(tmp_path / "memory")
    base = [np.zeros(shape, np.float32) for shape in flat(KERNELS)]
    sent, meant, without = (np.zeros(flat(KERNELS)[0]) for _ in range(3))
    for round_ in range(30):
        # One large change a channel makes the steps coarse for all the others, which change by 0.3 of a step.
        values = [np.full(shape, 0.3 / 127, np.float32) for shape in flat(KERNELS)]
        values[0][0, 0, 0] = 1.0
        sent += through_the_wire(tmp_path, "int8", values, base, memory=memory)[0]
        fresh = residuals(tmp_path / f"fresh{round_}")
        without += through_the_wire(tmp_path, "int8", values, base, memory=fresh)[0]
        meant += values[0]
    step = 1.3 / 127
    assert np.abs(sent - meant).max() <= step
    assert np.abs(without - meant).max() > 6 * step


def test_arrays_in_fortran_order_are_encoded_alike(tmp_path):
    base, values = randoms(flat(KERNELS), 1), randoms(flat(KERNELS), 2)
    arrays, _ = encoded(tmp_path, "int8", values, base)
    fortran = [[np.asfortranarray(array) for array in arrays] for arrays in (values, base)]
    assert encoded(tmp_path, "int8", *fortran)[0][1].tobytes() == arrays[1].tobytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a, b: [a, b[:-60]], r"has an invalid kernel of shape \(40, 12\) in b: truncated, ends at byte"),
        (lambda a, b: [a, b[:0]], r"has an invalid kernel of shape \(3, 3, 8, 16\) in a: truncated"),
        (lambda a, b: [a[:-1], b], "has 27 float32 values, expected 28 or more for b"),
        (lambda a, b: [a, np.append(b, b[:1])], r"bytes of kernels, expected 28 and \d+ for its layers a, b"),
        (lambda a, b: [a], "expected .*u1"),
        (lambda a, b: [a, b.view(np.int8)], "expected .*u1"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, reason):
    zeros = [np.zeros(shape, np.float32) for shape in flat(KERNELS)]
    update = encoded(tmp_path, "int8", randoms(flat(KERNELS)), zeros)
    with pytest.raises(ValueError, match=reason):
        decoded(*changed(*update, change), zeros)


def coded(multiples, steps=STEPS):
    return steps.tobytes() + zlib.compress(multiples.tobytes())


def decode(data):
    """Decode an update of one kernel from the bytes `data`."""
    update = [np.empty(0, "<f4"), np.empty(0, np.uint8)], {"format": 3, "model": "f", "codec": "int8", "layers": ["a"]}
    base = [np.zeros(SHAPE, np.float32)]
    return decoded(*changed(*update, lambda a, b: [a, after(data)]), base, {"a": [SHAPE]})[0]


def test_data_are_steps_and_deflated_multiples():
    np.testing.assert_array_equal(decode(coded(MULTIPLES)), 0.25 * np.float32(MULTIPLES).reshape(SHAPE))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes, expected 48 of steps"),
        (coded(MULTIPLES)[:47], "47 bytes, expected 48 of steps"),
        (coded(MULTIPLES)[:48], "0 values, expected 480"),
        (coded(MULTIPLES)[:-40], r"\d+ values, expected 480"),
        (coded(MULTIPLES)[:-1], "the deflated values have no end"),
        (coded(MULTIPLES) + b"12", "2 bytes after the deflated values"),
        (coded(MULTIPLES[1:]), "479 values, expected 480"),
        (coded(np.append(MULTIPLES, MULTIPLES[:1])), "481 values or more, expected 480"),
        (coded(MULTIPLES)[:48] + bytes(100), "cannot be inflated: Error -3"),
        (coded(MULTIPLES)[:-1] + b"\x12", "cannot be inflated: Error -3 .* incorrect data check"),
        (coded(MULTIPLES) + bytes(592), r"\d+ bytes, expected 592 at most"),
        (coded(MULTIPLES, STEPS * np.float32(np.nan)), "steps that are not finite"),
        (coded(MULTIPLES, np.append(STEPS[1:], -np.float32(np.inf))), "steps that are not finite"),
    ],
)
def test_data_that_do_not_decode_are_refused_for_their_layer(data, reason):
    with pytest.raises(ValueError, match=rf"has an invalid kernel of shape \(40, 12\) in a: (?:{reason})"):
        decode(data)


@pytest.mark.filterwarnings("error")
def test_steps_too_large_for_float32_are_refused():
    with pytest.raises(ValueError, match="has values in a that are not finite"):
        decode(coded(MULTIPLES, STEPS * FLOAT32.max))


def test_a_deflate_bomb_is_not_inflated():
    shape = (1000, 12)
    bomb = np.full(12, 0.25, "<f4").tobytes() + zlib.compress(bytes(10**7))  # 10 MB in 10 kB, which max_bytes allows
    update = [np.empty(0, "<f4"), np.empty(0, np.uint8)], {"format": 3, "model": "f", "codec": "int8", "layers": ["a"]}
    arrays, metadata = changed(*update, lambda a, b: [a, after(bomb)])
    base = [np.zeros(shape, np.float32)]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="12001 values or more, expected 12000"):
            decoded(arrays, metadata, base, {"a": [shape]})
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()
