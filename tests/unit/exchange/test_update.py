"""The wire: what is written comes back bit by bit, and whatever does not fit is refused for the right reason."""

import json
import os
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
from fedn.utils.helpers.plugins.numpyhelper import Helper
from residual_files import Residual, residuals

from fedn_partial.errors import ModelError
from fedn_partial.exchange import decoding, encoding, model_file, wire
from fedn_partial.runtime.refusal import write_refusal
from fedn_partial.submodel.layers import Tensor, read_layers, tensor_list
from fedn_partial.submodel.selection import Context, Random, select_layers
from fedn_partial.submodel.update_tensors import shapes, update_tensors

SHAPES = {"conv0": [[3, 3, 2, 4], [4]], "conv1": [[3, 3, 4, 2], [2]], "dense": [[8, 3], [3], []]}
ZEROS = {name: [np.zeros(shape, np.float32) for shape in shapes] for name, shapes in SHAPES.items()}
FLOAT32 = np.finfo(np.float32)
NO_MODEL = r"model\.npz is not a model in FEDn's npz format"


def randoms(shapes, seed=1):
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape, dtype=np.float32) for shape in shapes]


def encoded(folder, layers=("conv0", "dense")):
    """Write an update of `layers`; return its arrays and metadata as the server gets them."""
    path = str(folder / "update.npz")
    checksum = encoding.encode(path, randoms([shape for name in layers for shape in SHAPES[name]]))
    metadata = {"num_examples": 12, "model": "f", "base": "b", "layers": list(layers), "codec": "float32"}
    encoding.write_metadata(path, metadata | {"checksum": checksum})
    with open(path + "-metadata") as file:
        return Helper().load(path), json.load(file)


def decode(arrays, metadata):
    return decoding.decode(arrays, metadata, "f", "float32", SHAPES, ZEROS)


def test_tensors_come_back_bit_by_bit_through_fedn(tmp_path):
    special = np.array([[0.0, -0.0, 1.0], [FLOAT32.max, FLOAT32.smallest_subnormal, -FLOAT32.tiny]], np.float32)
    tensors = [
        special,
        np.asfortranarray(randoms([[3, 4]])[0]),
        randoms([[6, 5]])[0][::2, 1:],
        np.float32(7).reshape(()),
    ]
    checksum = encoding.encode(str(tmp_path / "u"), tensors)
    arrays = Helper().load(str(tmp_path / "u"))
    layer_shapes = {"a": [[2, 3], [3, 4]], "b": [[3, 4], []]}
    metadata = {"format": 2, "model": "f", "codec": "float32", "layers": ["a", "b"], "checksum": checksum}
    parts = decoding.decode(arrays, metadata, "f", "float32", layer_shapes, layer_shapes)
    assert list(parts) == ["a", "b"]
    for part, tensor in zip([*parts["a"], *parts["b"]], tensors, strict=True):
        assert (part.shape, part.dtype) == (tensor.shape, np.float32)
        assert part.tobytes() == tensor.tobytes()


@pytest.mark.parametrize("layers", [["conv1"], ["conv0", "dense"], ["conv0", "conv1", "dense"]])
def test_each_layer_gets_its_own_tensors(tmp_path, layers):
    parts = decode(*encoded(tmp_path, layers))
    assert list(parts) == layers
    wanted = randoms([shape for name in layers for shape in SHAPES[name]])
    for part, tensor in zip([part for name in layers for part in parts[name]], wanted, strict=True):
        np.testing.assert_array_equal(part, tensor, strict=True)


def test_decoded_tensors_are_no_second_copy(tmp_path):
    arrays, metadata = encoded(tmp_path)
    assert all(np.shares_memory(part, arrays[0]) for parts in decode(arrays, metadata).values() for part in parts)


def test_layers_of_a_real_model_come_back(build, tmp_path):
    model = build("vgg16", width=1 / 64)
    layers = read_layers(model)
    weights = model.get_weights()
    checksum = encoding.encode(str(tmp_path / "u"), weights)
    names = [layer.name for layer in layers]
    metadata = {"format": 2, "model": "f", "codec": "float32", "layers": names, "checksum": checksum}
    layer_shapes = shapes(update_tensors(layers, "with_layer"))
    parts = decoding.decode(Helper().load(str(tmp_path / "u")), metadata, "f", "float32", layer_shapes, layer_shapes)
    for layer in layers:
        for part, tensor in zip(parts[layer.name], layer.tensors, strict=True):
            np.testing.assert_array_equal(part, weights[tensor.index], strict=True)


@pytest.mark.parametrize("width", [1 / 8, 1.0])
@pytest.mark.parametrize("names", [["conv2", "conv7", "conv10", "dense"], None], ids=["4 layers", "all layers"])
def test_upload_is_little_more_than_the_trained_tensors(build, tmp_path, width, names):
    layers = [layer for layer in read_layers(build("vgg16", width=width)) if names is None or layer.name in names]
    tensors = randoms([tensor.shape for tensor in tensor_list(layers)])
    path = str(tmp_path / "update.npz")
    checksum = encoding.encode(path, tensors)
    resources = dict.fromkeys(("seconds", "cpu_seconds", "cpu_percent", "rss_peak_mb", "ram_used_mb"), 123456.78)
    metadata = {"num_examples": 5000, "model": "f" * 16, "base": "b" * 32, "round": 100, "client": "device-10"}
    encoding.write_metadata(
        path,
        metadata
        | {
            "layers": [layer.name for layer in layers],
            "codec": "float32",
            "checksum": checksum,
            "resources": resources,
        },
    )
    needed = sum(tensor.nbytes for tensor in tensors)
    sent = os.path.getsize(path) + os.path.getsize(path + "-metadata")
    assert needed < sent <= 1.01 * needed + 8192


# Codecs

KERNELS = {"a": [[3, 3, 8, 16], [16]], "b": [[40, 12], [12]]}


def through_the_wire(folder, codec, values, base, memory=()):
    """Encode the tensors of KERNELS, load them as FEDn does, decode them; return them as a flat list."""
    path = str(folder / "update.npz")
    checksum = encoding.encode(path, values, codec, iter(base), memory or [Residual(folder / str(i)) for i in range(4)])
    parts = iter(base)
    return [
        array
        for arrays in decoding.decode(
            Helper().load(path),
            {"format": 2, "model": "f", "codec": codec, "layers": ["a", "b"], "checksum": checksum},
            "f",
            codec,
            KERNELS,
            {name: [next(parts) for _ in shapes] for name, shapes in KERNELS.items()},
        ).values()
        for array in arrays
    ]


def kernel_shapes():
    return [shape for shapes in KERNELS.values() for shape in shapes]


def test_float16_rounds_kernels_and_keeps_vectors(tmp_path):
    values = randoms(kernel_shapes())
    for came, value in zip(through_the_wire(tmp_path, "float16", values, values), values, strict=True):
        wanted = value.astype(np.float16).astype(np.float32) if value.ndim > 1 else value
        np.testing.assert_array_equal(came, wanted, strict=True)


def test_int8_is_within_half_a_step_of_each_channel_and_keeps_vectors(tmp_path):
    base, values = randoms(kernel_shapes(), 1), randoms(kernel_shapes(), 2)
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


def test_int8_loses_nothing_over_the_rounds(tmp_path):
    """Error feedback: the sum of what arrived differs from the sum of the changes by one round's rounding at most."""
    memory = [Residual(tmp_path / f"memory/{index}.npy") for index in range(4)]
    base = [np.zeros(shape, np.float32) for shape in kernel_shapes()]
    sent, meant, without = (np.zeros(kernel_shapes()[0]) for _ in range(3))
    for round_ in range(30):
        # One large change a channel makes the steps coarse for all the others, which change by 0.3 of a step.
        values = [np.full(shape, 0.3 / 127, np.float32) for shape in kernel_shapes()]
        values[0][0, 0, 0] = 1.0
        sent += through_the_wire(tmp_path, "int8", values, base, memory)[0]
        fresh = [Residual(tmp_path / f"fresh{round_}/{index}.npy") for index in range(4)]
        without += through_the_wire(tmp_path, "int8", values, base, fresh)[0]
        meant += values[0]
    step = 1.3 / 127
    assert np.abs(sent - meant).max() <= step
    assert np.abs(without - meant).max() > 6 * step


@pytest.mark.parametrize(
    ("codec", "change", "told"),
    [
        ("int8", lambda a, b: [a, b[:-60]], "has .* values, expected .* for its layers a, b"),
        ("int8", lambda a, b: [a, b[:0]], "has .* values, expected .* for its layers a, b"),
        ("int8", lambda a, b: [a, b[::-1].copy()], "cannot be inflated"),
        ("int8", lambda a, b: [a, np.frombuffer(zlib.compress(bytes(10**8)), np.uint8)], "expected .*1632"),
        ("int8", lambda a, b: [a[:-1], b], "has .* values"),
        ("int8", lambda a, b: [np.where(np.arange(a.size) < 16, FLOAT32.max, a).astype("<f4"), b], "too large"),
        ("int8", lambda a, b: [a], "expected .*u1"),
        ("int8", lambda a, b: [a, b.view(np.int8)], "expected .*u1"),
        ("float16", lambda a, b: [a, b[:-1]], "has .* values"),
        ("float16", lambda a, b: [a, b.astype(np.float32)], "expected .*f2"),
        ("float16", lambda a, b: [a, b * np.float16(np.inf)], "not finite"),
        ("float16", lambda a, b: [a, b, b], "expected .*f2"),
    ],
)
def test_coded_update_is_refused_for_its_arrays(tmp_path, codec, change, told):
    values = randoms(kernel_shapes())
    path = str(tmp_path / "update.npz")
    zeros = [np.zeros(shape, np.float32) for shape in kernel_shapes()]
    encoding.encode(path, values, codec, zeros, [Residual(tmp_path / str(index)) for index in range(4)])
    arrays = change(*Helper().load(path))
    crc = 0
    for array in arrays:
        crc = wire.checksum(array, crc)
    metadata = {"format": 2, "model": "f", "codec": codec, "layers": ["a", "b"], "checksum": crc}
    with pytest.raises(ValueError, match=told):
        decoding.decode(arrays, metadata, "f", codec, KERNELS, {"a": zeros[:2], "b": zeros[2:]})


def test_bytes_of_the_codecs(build, tmp_path):
    """4 of VGG16's 14 layers, mean over 20 draws: float16 half of float32, int8 at most 0.06 of the full model."""
    layers = read_layers(build("vgg16", width=1 / 4))
    full = sum(layer.nbytes for layer in layers)
    sizes = dict.fromkeys(("float32", "float16", "int8"), 0)
    for round_ in range(1, 21):
        selected = select_layers(Random(4, ("dense",)), layers, Context(seed=1, round=round_, client="c"))
        tensors = tensor_list(selected)
        base, values = ([*randoms([tensor.shape for tensor in tensors], seed)] for seed in (1, 2))
        for codec in sizes:
            path = str(tmp_path / "update.npz")
            memory = residuals(tmp_path / "residuals", "s", tensors)
            encoding.encode(path, values, codec, base, memory)
            sizes[codec] += os.path.getsize(path) / 20
    assert sizes["float16"] / sizes["float32"] == pytest.approx(0.5, rel=0.01)
    assert sizes["int8"] / full < 0.06


def test_update_is_not_compressed(tmp_path):
    encoding.encode(str(tmp_path / "u"), [np.zeros(10_000, np.float32)])
    with zipfile.ZipFile(tmp_path / "u") as archive:
        assert [(member.filename, member.compress_type) for member in archive.infolist()] == [("0.npy", 0)]
        assert archive.testzip() is None


def test_number_of_examples_is_a_string_that_stock_fedavg_cannot_add(tmp_path):
    _, metadata = encoded(tmp_path)
    assert (metadata["num_examples"], metadata["format"]) == ("12", 2)
    with pytest.raises(TypeError):
        0 + metadata["num_examples"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 1}, "has format 1, expected 2"),
        ({"format": None}, "has format None"),
        ({"model": "g"}, "is for model 'g', expected 'f'"),
        ({"codec": "int8"}, "has codec 'int8', expected 'float32'"),
        ({"layers": ["conv0", "conv9"]}, "has layers .*'conv9'"),
        ({"layers": ["conv0", "conv0"]}, "has layers .*'conv0', 'conv0'"),
        ({"layers": ["dense", "conv0"]}, "in model order"),
        ({"layers": []}, r"has layers \[\]"),
        ({"layers": None}, "has layers None"),
        ({"layers": "conv0"}, "has layers 'conv0'"),
        ({"layers": [["conv0"]]}, "has layers"),
        ({"layers": ["conv0"]}, "has 104 values, expected 76 for its layers conv0"),
        ({"layers": ["conv0", "conv1"]}, "has 104 values, expected 150 for its layers conv0, conv1"),
        ({"checksum": 1}, "does not match its checksum"),
        ({"checksum": None}, "does not match its checksum"),
    ],
)
def test_update_is_refused_for_its_metadata(tmp_path, change, told):
    arrays, metadata = encoded(tmp_path)
    with pytest.raises(ValueError, match=told):
        decode(arrays, metadata | change)


def with_value(value):
    def change(values):
        values = values.copy()
        values[50] = value
        return [values]

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda values: [], r"shapes \[\], expected"),
        (lambda values: [values, values], r"shapes \[\('<f4', \(104,\)\), \('<f4', \(104,\)\)\], expected"),
        (lambda values: [values.reshape(8, 13)], r"\(8, 13\)\)\], expected .* with one dimension"),
        (lambda values: [values.sum()], r"\(\)\)\], expected .* with one dimension"),
        (lambda values: [values.astype(np.float64)], "<f8.*, expected .*<f4"),
        (lambda values: [values.view(np.int32)], "<i4.*, expected .*<f4"),
        (lambda values: [values.astype(">f4")], ">f4.*, expected .*<f4"),
        (lambda values: [values[:-1]], "has 103 values"),
        (lambda values: [np.append(values, np.float32(0))], "has 105 values"),
        (lambda values: [values[:0]], "has 0 values"),
        (with_value(np.nan), "not finite"),
        (with_value(np.inf), "not finite"),
        (with_value(-np.inf), "not finite"),
    ],
)
def test_update_is_refused_for_its_arrays(tmp_path, change, told):
    arrays, metadata = encoded(tmp_path)
    changed = change(arrays[0])
    if changed:
        metadata["checksum"] = wire.checksum(np.ascontiguousarray(changed[0]))
    with pytest.raises(ValueError, match=told):
        decode(changed, metadata)


def test_one_flipped_bit_is_refused(tmp_path):
    arrays, metadata = encoded(tmp_path)
    arrays[0].view(np.uint32)[103] ^= 1
    with pytest.raises(ValueError, match="does not match its checksum"):
        decode(arrays, metadata)


@pytest.mark.parametrize("metadata", [None, [], "{}"])
def test_metadata_that_is_no_dict_is_refused(tmp_path, metadata):
    arrays, _ = encoded(tmp_path)
    with pytest.raises(ValueError, match="is not a model with its metadata"):
        decode(arrays, metadata)


@pytest.mark.parametrize("wrap", [tuple, lambda arrays: arrays[0], lambda arrays: None])
def test_arrays_that_are_no_list_are_refused(tmp_path, wrap):
    arrays, metadata = encoded(tmp_path)
    with pytest.raises(ValueError, match="is not a model with its metadata"):
        decode(wrap(arrays), metadata)


def flip_a_bit(content):
    return content[:100] + bytes([content[100] ^ 4]) + content[101:]


def test_global_model_comes_as_fedn_wrote_it(tmp_path):
    weights = randoms([[3, 4], [5], []])
    path = Helper().save(weights, str(tmp_path / "model.npz"))
    for loaded, weight in zip(model_file.read_model(path), weights, strict=True):
        np.testing.assert_array_equal(loaded, weight, strict=True)


@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: b"no model", lambda content: content[:-40], flip_a_bit],
    ids=["empty", "text", "truncated", "flipped bit"],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["plain", "compressed"])
def test_damaged_global_model_is_refused(tmp_path, save, damage):
    path = tmp_path / "model.npz"
    save(path, **{"0": randoms([[40, 5]])[0]})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match=NO_MODEL):
        list(model_file.read_model(str(path)))


@pytest.mark.parametrize(
    "arrays", [{"weights": np.zeros(3, np.float32)}, {"0": np.array([{}], object)}], ids=["other names", "pickled"]
)
def test_npz_that_is_no_global_model_is_refused(tmp_path, arrays):
    np.savez(tmp_path / "model.npz", **arrays)
    with pytest.raises(ModelError, match=NO_MODEL):
        list(model_file.read_model(str(tmp_path / "model.npz")))


def test_missing_global_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=NO_MODEL):
        list(model_file.read_model(str(tmp_path / "model.npz")))


TENSORS = [Tensor(0, "a/kernel", (2, 3), "float32"), Tensor(1, "a/bias", (3,), "float32")]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_fitting_global_model_passes(tmp_path, dtype):
    weights = [array.astype(dtype) for array in randoms([(2, 3), (3,)])]
    path = Helper().save(weights, str(tmp_path / "model.npz"))
    for loaded, weight in zip(model_file.read_model(path, TENSORS), weights, strict=True):
        np.testing.assert_array_equal(loaded, weight, strict=True)
    (bias,) = model_file.read_model(path, TENSORS, only=TENSORS[1:])
    np.testing.assert_array_equal(bias, weights[1], strict=True)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        (randoms([(2, 3)]), "global model has 1 tensors, expected 2"),
        (randoms([(2, 3), (3,), (1,)]), "global model has 3 tensors, expected 2"),
        (randoms([(3, 2), (3,)]), r"tensor 0 \(a/kernel\) is float32 \(3, 2\), expected float32 \(2, 3\)"),
        (randoms([(2, 3), (3, 1)]), r"tensor 1 \(a/bias\) is float32 \(3, 1\), expected float32 \(3,\)"),
        ([np.zeros((2, 3)), *randoms([(3,)])], r"tensor 0 \(a/kernel\) is float64 \(2, 3\)"),
        ([*randoms([(2, 3)]), np.float32([0, np.nan, 0])], r"tensor 1 \(a/bias\) has values that are not finite"),
        ([*randoms([(2, 3)]), np.float32([0, 0, np.inf])], r"tensor 1 \(a/bias\) has values that are not finite"),
    ],
)
def test_global_model_that_does_not_fit_is_refused(tmp_path, arrays, told):
    path = Helper().save(arrays, str(tmp_path / "model.npz"))
    with pytest.raises(ModelError, match=told):
        list(model_file.read_model(path, TENSORS))


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


def test_refusal_is_a_model_without_values_for_fedn(tmp_path):
    path = str(tmp_path / "update.npz")
    write_refusal(path, "no data", round=4, client="a")
    (array,) = Helper().load(path)
    assert (array.shape, array.dtype) == ((0,), np.float32)
    with open(path + "-metadata") as file:
        assert json.load(file) == {"num_examples": "0", "layers": [], "refused": "no data", "round": 4, "client": "a"}


def test_refusal_is_no_update(tmp_path):
    path = str(tmp_path / "update.npz")
    write_refusal(path, "no data", format=2, model="f", codec="float32")
    with open(path + "-metadata") as file, pytest.raises(ValueError, match="has layers"):
        decode(Helper().load(path), json.load(file))


def test_refusal_works_without_numpy(tmp_path):
    code = (
        "import sys; from fedn_partial.runtime.refusal import write_refusal; write_refusal(sys.argv[1], 'no'); "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "u")]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert np.load(tmp_path / "u")["0"].shape == (0,)
    assert "zipfile" in loaded
    assert not {"numpy", "tensorflow", "keras", "yaml", "psutil", "fedn"} & set(loaded)
