"""The wire: what is written comes back bit by bit, and whatever does not fit is refused for the right reason."""

import json
import os
import zipfile

import numpy as np
import pytest
from fedn.utils.helpers.plugins.numpyhelper import Helper
from updates import changed, randoms

from fedn_partial.exchange import decoding, encoding
from fedn_partial.runtime.residuals import residuals
from fedn_partial.submodel.layers import read_layers, tensor_list
from fedn_partial.submodel.selection import Context, Random, select_layers
from fedn_partial.submodel.update_tensors import shapes, update_tensors

SHAPES = {"conv0": [[3, 3, 2, 4], [4]], "conv1": [[3, 3, 4, 2], [2]], "dense": [[8, 3], [3], []]}
ZEROS = {name: [np.zeros(shape, np.float32) for shape in shapes] for name, shapes in SHAPES.items()}
FLOAT32 = np.finfo(np.float32)


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
    metadata = {"format": 3, "model": "f", "codec": "float32", "layers": ["a", "b"], "checksum": checksum}
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
    for part in (part for parts in decode(arrays, metadata).values() for part in parts):
        assert np.shares_memory(part, arrays[1 if part.ndim > 1 else 0])


def test_layers_of_a_real_model_come_back(build, tmp_path):
    model = build("vgg16", width=1 / 64)
    layers = read_layers(model)
    weights = model.get_weights()
    checksum = encoding.encode(str(tmp_path / "u"), weights)
    names = [layer.name for layer in layers]
    metadata = {"format": 3, "model": "f", "codec": "float32", "layers": names, "checksum": checksum}
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
        assert [(member.filename, member.compress_type) for member in archive.infolist()] == [
            ("0.npy", 0),
            ("1.npy", 0),
        ]
        assert archive.testzip() is None


def test_number_of_examples_is_a_string_that_stock_fedavg_cannot_add(tmp_path):
    _, metadata = encoded(tmp_path)
    assert (metadata["num_examples"], metadata["format"]) == ("12", 3)
    with pytest.raises(TypeError):
        0 + metadata["num_examples"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 2}, "has format 2, expected 3"),
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
        (
            {"layers": ["conv0"]},
            "has 8 float32 values and 392 bytes of kernels, expected 4 and 292 for its layers conv0$",
        ),
        (
            {"layers": ["conv0", "conv1"]},
            r"has an invalid kernel of shape \(3, 3, 4, 2\) in conv1: 96 bytes, expected 288$",
        ),
        ({"checksum": 1}, "does not match its checksum"),
        ({"checksum": None}, "does not match its checksum"),
    ],
)
def test_update_is_refused_for_its_metadata(tmp_path, change, told):
    arrays, metadata = encoded(tmp_path)
    with pytest.raises(ValueError, match=told):
        decode(arrays, metadata | change)


def with_value(value):
    def change(vectors, kernels):
        vectors = vectors.copy()
        vectors[5] = value
        return [vectors, kernels]

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a, b: [], r"shapes \[\], expected"),
        (lambda a, b: [a], r"shapes \[\('<f4', \(8,\)\)\], expected"),
        (lambda a, b: [a, a], r"shapes \[\('<f4', \(8,\)\), \('<f4', \(8,\)\)\], expected"),
        (lambda a, b: [b, a], r"shapes \[\('\|u1', \(392,\)\), \('<f4', \(8,\)\)\], expected"),
        (lambda a, b: [a, b, b], r"\('\|u1', \(392,\)\), \('\|u1', \(392,\)\)\], expected"),
        (lambda a, b: [a.reshape(2, 4), b], r"\(2, 4\)\), .* expected .* with one dimension"),
        (lambda a, b: [a, b.reshape(8, 49)], r"\(8, 49\)\)\], expected .* with one dimension"),
        (lambda a, b: [a.sum(), b], r"\('<f4', \(\)\), .* expected .* with one dimension"),
        (lambda a, b: [a.astype(np.float64), b], "<f8.*, expected .*<f4"),
        (lambda a, b: [a.view(np.int32), b], "<i4.*, expected .*<f4"),
        (lambda a, b: [a.astype(">f4"), b], ">f4.*, expected .*<f4"),
        (lambda a, b: [a, b.view(np.int8)], r"\|i1.*, expected .*\|u1"),
        (lambda a, b: [a, b.view("<f4")], r"<f4.*, expected .*\|u1"),
        (lambda a, b: [a[:-1], b], "has 7 float32 values, expected 8 or more for dense"),
        (
            lambda a, b: [np.append(a, np.float32(0)), b],
            "has 9 float32 values and 392 bytes of kernels, expected 8 and 392 for its layers conv0, dense",
        ),
        (lambda a, b: [a[:0], b], "has 0 float32 values, expected 4 or more for conv0"),
        (lambda a, b: [a, b[:0]], "in conv0: truncated"),
        (with_value(np.nan), "has values in dense that are not finite"),
        (with_value(np.inf), "has values in dense that are not finite"),
        (with_value(-np.inf), "has values in dense that are not finite"),
    ],
)
def test_update_is_refused_for_its_arrays(tmp_path, change, told):
    with pytest.raises(ValueError, match=told):
        decode(*changed(*encoded(tmp_path), change))


@pytest.mark.parametrize(("array", "value"), [(0, 7), (1, 0), (1, 50)])
def test_one_flipped_bit_is_refused(tmp_path, array, value):
    arrays, metadata = encoded(tmp_path)
    arrays[array].view(np.uint32)[value] ^= 1
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
