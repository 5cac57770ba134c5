"""Properties of all codecs, of random shapes and values, with NumPy as oracle."""

import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from paths import ROOT
from updates import changed, checksum, decoded, encoded, flat, residuals

from fedn_partial.custom import modules, names
from fedn_partial.device import costs
from fedn_partial.exchange.codecs import CODECS, Codec
from fedn_partial.exchange.codecs.base import unpack
from fedn_partial.submodel.layers import Tensor

TOP_K = "my_codecs:TopK"  # of docs/examples
ALL = [*CODECS, TOP_K]
EPSILON, TINY = np.finfo(np.float32).eps, np.finfo(np.float32).tiny

# Layers of one to three tensors each: {layer: [shape, ...]}
LAYERS = st.lists(
    st.lists(array_shapes(min_dims=1, max_dims=5, max_side=7), min_size=1, max_size=3), min_size=1, max_size=3
).map(lambda layers: {f"layer{index}": shapes for index, shapes in enumerate(layers)})
SEEDS = st.integers(0, 2**32 - 1)
SCALES = st.sampled_from([1e-42, 1e-30, 1e-3, 1.0, 1e3])  # of the changes, from denormalised ones on
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def examples(count):
    """Settings of a property; derandomised, as a run of the tests must depend on the code alone."""
    return settings(max_examples=count, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module", autouse=True)
def custom_codec():
    """The codec of the documentation's examples, on the device and in FEDn's process."""
    modules.use(ROOT / "docs" / "examples")
    name = "fedn_partial.exchange.custom.my_codecs"
    sys.modules[name] = modules.load("my_codecs", "test")
    yield
    del sys.modules[name]
    modules.use(None)


@pytest.fixture(scope="module", autouse=True)
def folder():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def draw(layers, seed, scale=1.0):
    """Return random tensors, some of whose values are zero."""
    random = np.random.default_rng(seed)
    tensors = [random.standard_normal(shape) * (random.random(shape) < 0.8) for shape in flat(layers)]
    return [(scale * tensor).astype(np.float32) for tensor in tensors]


def update_of(layers, seed, scale):
    """Return the trained and the global weights."""
    base = draw(layers, seed)
    return [old + change for old, change in zip(base, draw(layers, seed + 1, scale), strict=True)], base


def check_float16(came, value, old):
    np.testing.assert_array_equal(came, value.astype(np.float16).astype(np.float32), strict=True)


def check_int8(came, value, old):
    """Half a step of the output channel, and the rounding of sums and products in float32."""
    exact, old = value.astype(np.float64), old.astype(np.float64)
    step = np.abs(exact - old).max(axis=tuple(range(value.ndim - 1))) / 127
    rounding = 4 * EPSILON * (np.abs(exact) + np.abs(old)) + 127 * TINY
    assert (np.abs(came - exact) <= step / 2 * (1 + 1e-4) + rounding).all()


def check_top_k(came, value, old):
    """The largest tenth of the changes, and the global weights elsewhere."""
    change = (value - old).reshape(-1)
    smallest = np.sort(np.abs(change))[-math.ceil(change.size / 10)]
    came, old = came.reshape(-1), old.reshape(-1)
    sent = np.abs(change) > smallest
    np.testing.assert_array_equal(came[sent], (old + change)[sent])
    np.testing.assert_array_equal(came[np.abs(change) < smallest], old[np.abs(change) < smallest])
    border = np.abs(change) == smallest
    assert ((came == old) | (came == old + change))[border].all()


CHECKS = {"float16": check_float16, "int8": check_int8, TOP_K: check_top_k}


@pytest.mark.parametrize("codec", ALL)
def test_decoded_tensors_are_those_of_the_oracle(codec, folder):
    @examples(100)
    @given(LAYERS, SEEDS, SCALES)
    def check(layers, seed, scale):
        values, base = update_of(layers, seed, scale)
        for came, value, old in zip(
            decoded(*encoded(folder, codec, values, base, layers), base, layers), values, base, strict=True
        ):
            assert (came.shape, came.dtype) == (value.shape, np.float32)
            if codec == "float32" or value.ndim == 1:
                assert came.tobytes() == value.tobytes()
            else:
                CHECKS[codec](came, value, old)

    check()


@pytest.mark.parametrize("codec", ALL)
def test_bytes_are_at_most_those_that_are_promised(codec, folder):
    coder = names.make(codec, CODECS, Codec, "codec")

    @examples(50)
    @given(LAYERS, SEEDS, SCALES)
    def check(layers, seed, scale):
        arrays, _ = encoded(folder, codec, *update_of(layers, seed, scale), layers)
        offset, kernels = 0, memoryview(arrays[1])
        for shape in flat(layers):
            if len(shape) > 1:
                data, offset = unpack(kernels, offset)
                assert len(data) <= coder.max_bytes(shape)
                assert len(data) == coder.max_bytes(shape) or not coder.fixed_size
        assert offset == len(kernels)
        tensors = [Tensor(0, "", shape, "float32") for shape in flat(layers)]
        assert (folder / "update.npz").stat().st_size <= costs.encoded_bytes(tensors, codec)

    check()


@pytest.mark.parametrize("codec", ["int8", TOP_K])
def test_error_feedback_loses_nothing_but_the_last_residual(codec, folder):
    @examples(30)
    @given(array_shapes(min_dims=2, max_dims=5, max_side=7), SEEDS, st.lists(SCALES, min_size=1, max_size=6))
    def check(shape, seed, scales):
        layers, base = {"a": [shape]}, [np.zeros(shape, np.float32)]
        memory = residuals(Path(tempfile.mkdtemp(dir=folder)), layers)
        changes = [draw(layers, seed + number, scale)[0] for number, scale in enumerate(scales)]
        sent = [decoded(*encoded(folder, codec, [change], base, layers, memory), base, layers)[0] for change in changes]
        total, came = (np.sum(arrays, axis=0, dtype=np.float64) for arrays in (changes, sent))
        rounding = 4 * EPSILON * len(scales) * max(np.abs(changes).max(), np.abs(sent).max()) + len(scales) * 127 * TINY
        np.testing.assert_allclose(came, total - memory[0].load(shape), rtol=0, atol=rounding)

    check()


FLIPS = st.lists(st.integers(0, 2**40), min_size=1, max_size=3, unique=True)


def damage(arrays, which, kind, positions):
    """Return copies of the arrays, one of them truncated, extended or with flipped bits, or None if it is empty."""
    arrays = [array.copy() for array in arrays]
    array, size = arrays[which], arrays[which].size
    if kind == "append":
        content = np.random.default_rng(positions[0]).bytes(array.itemsize * len(positions))
        arrays[which] = np.append(array, np.frombuffer(content, array.dtype))
    elif size == 0:
        return None
    elif kind == "truncate":
        arrays[which] = array[: positions[0] % size]
    else:
        content = array.view(np.uint8)
        for bit in {position % (8 * content.size) for position in positions}:
            content[bit // 8] ^= 1 << bit % 8
    return arrays


@pytest.mark.parametrize("codec", ALL)
def test_a_damaged_update_is_refused_or_decodes_to_finite_tensors(codec, folder):
    @examples(150)
    @given(LAYERS, SEEDS, st.sampled_from([0, 1, 1]), st.sampled_from(["append", "truncate", "flip", "flip"]), FLIPS)
    def check(layers, seed, which, kind, positions):
        values, base = update_of(layers, seed, 0.1)
        arrays, metadata = encoded(folder, codec, values, base, layers)
        damaged = damage(arrays, which, kind, positions)
        if damaged is None:
            return
        with pytest.raises(ValueError, match="does not match its checksum"):
            decoded(damaged, metadata, base, layers)
        try:
            tensors = decoded(*changed(arrays, metadata, lambda *_: damaged), base, layers)
        except ValueError as error:
            assert str(error).startswith("has ")
            return
        assert kind == "flip" or codec not in ("float32", "float16", "int8")
        for tensor, value in zip(tensors, values, strict=True):
            assert (tensor.shape, tensor.dtype) == (value.shape, np.float32) and np.isfinite(tensor).all()

    check()


@pytest.mark.parametrize("codec", ALL)
def test_random_bytes_are_refused_or_decode_to_finite_tensors(codec, folder):
    @examples(100)
    @given(array_shapes(min_dims=2, max_dims=4, max_side=5), st.binary(max_size=200), st.booleans())
    def check(shape, data, fits):
        length = len(data).to_bytes(4, "little") if fits else b""
        arrays = [np.empty(0, "<f4"), np.frombuffer(length + data, np.uint8)]
        metadata = {"format": 3, "model": "f", "codec": codec, "layers": ["a"], "checksum": checksum(arrays)}
        base = [np.ones(shape, np.float32)]
        try:
            (tensor,) = decoded(arrays, metadata, base, {"a": [shape]})
        except ValueError as error:
            assert str(error).startswith("has ")
            return
        assert (tensor.shape, tensor.dtype) == (shape, np.float32) and np.isfinite(tensor).all()

    check()
