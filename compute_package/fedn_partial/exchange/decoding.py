"""Decoding of local updates, see ``encoding`` for their format."""

from __future__ import annotations

import zlib

import numpy as np

from .codecs import unpack
from .custom import find
from .wire import FORMAT, checksum


def decode(arrays, metadata, fingerprint, codec, layers, base):
    """Return the trained tensors of an update, ``{layer: [float32 array, ...]}``, as views into it where possible.

    Parameters
    ----------
    arrays : list of arrays as loaded by numpyhelper.
    metadata : as written by ``write_metadata``.
    fingerprint, codec : of the session.
    layers : ``{layer: [shape, ...]}``, the shapes of the tensors that each layer sends.
    base : ``{layer: [array, ...]}``, the global model that the update is based on.

    Raises
    ------
    ValueError : the update is invalid; the message is the reason.
    """
    names = check_metadata(arrays, metadata, fingerprint, codec, layers)
    check_arrays(arrays, metadata, codec)
    exact, coded = arrays[0], arrays[-1]
    shapes = [shape for name in names for shape in layers[name]]
    kernels = [codec != "float32" and len(shape) > 1 for shape in shapes]
    sizes = [int(np.prod(shape)) for shape in shapes]
    kernel_size = sum(size for size, kernel in zip(sizes, kernels, strict=True) if kernel)
    if codec == "int8":
        coded = inflate(coded, kernel_size)
    # Number of values in array "0" per tensor: all of them, or for a kernel its step sizes, or none.
    counts = [
        size if not kernel else shape[-1] if codec == "int8" else 0
        for size, kernel, shape in zip(sizes, kernels, shapes, strict=True)
    ]
    actual, expected = exact.size, sum(counts)
    if codec in ("float16", "int8"):
        actual, expected = (actual, coded.size), (expected, kernel_size)
    if actual != expected:
        raise ValueError(f"has {actual} values, expected {expected} for its layers {', '.join(names)}")
    custom = find(codec, {})() if ":" in codec else None
    tensors, exact_offset, coded_offset = {}, 0, 0
    for name in names:
        tensors[name] = []
        for shape, old in zip(layers[name], base[name], strict=True):
            size = int(np.prod(shape))
            part = exact[exact_offset : exact_offset + counts.pop(0)]
            exact_offset += part.size
            if not kernels.pop(0):
                value = part.reshape(shape)
            elif custom:
                data, coded_offset = unpack(coded, coded_offset)
                value = check_change(name, decode_kernel(custom, data, shape) + old)
            else:
                value = coded[coded_offset : coded_offset + size].reshape(shape).astype(np.float32)
                coded_offset += size
                if codec == "int8":
                    value *= part
                    value += old
                    check_change(name, value)
            tensors[name].append(value)
    if custom and coded_offset != coded.size:
        raise ValueError(
            f"has {coded.size} bytes of kernels, expected {coded_offset} for its layers {', '.join(names)}"
        )
    return tensors


def check_metadata(arrays, metadata, fingerprint, codec, layers):
    """Return the names of the layers in an update (raises ValueError)."""
    if not isinstance(metadata, dict) or not isinstance(arrays, list):
        raise ValueError("is not a model with its metadata")
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"has format {metadata.get('format')!r}, expected {FORMAT}: install the same version of fedn-partial on "
            "device and server"
        )
    if metadata.get("model") != fingerprint:
        raise ValueError(f"is for model {metadata.get('model')!r}, expected {fingerprint!r}")
    if metadata.get("codec") != codec:
        raise ValueError(f"has codec {metadata.get('codec')!r}, expected {codec!r}")
    names = metadata.get("layers")
    if not isinstance(names, list) or not names or [name for name in layers if name in names] != names:
        raise ValueError(f"has layers {names!r}, expected layers of the model in model order")
    return names


def check_arrays(arrays, metadata, codec):
    """Raise ValueError unless the arrays have the codec's dtypes, the checksum of the metadata and finite values."""
    dtypes = {"float32": ["<f4"], "float16": ["<f4", "<f2"]}.get(codec, ["<f4", "|u1"])
    if [array.dtype.str for array in arrays] != dtypes or any(array.ndim != 1 for array in arrays):
        actual = [(array.dtype.str, array.shape) for array in arrays]
        raise ValueError(f"has arrays of dtypes and shapes {actual}, expected {dtypes} with one dimension each")
    crc = 0
    for array in arrays:
        crc = checksum(array, crc)
    if crc != metadata.get("checksum"):
        raise ValueError("does not match its checksum (damaged, or with the metadata of another update)")
    if not all(np.isfinite([array.min(), array.max()]).all() for array in arrays if array.size):
        raise ValueError("has values that are not finite (NaN or infinity)")


def inflate(coded, size):
    """Return the int8 values of deflated kernels; one more than `size` is enough to show that there are too many."""
    try:
        return np.frombuffer(zlib.decompressobj().decompress(coded.data, size + 1), np.int8)
    except zlib.error as error:
        raise ValueError(f"has kernels that cannot be inflated: {error}") from None


def decode_kernel(codec, data, shape):
    """Return the array that `codec` decodes from `data` (raises ValueError)."""
    value = np.asarray(codec.decode(bytes(data), tuple(shape)), np.float32)
    if value.shape != tuple(shape):
        raise ValueError(f"has a kernel of shape {value.shape}, expected {tuple(shape)}")
    return value


def check_change(name, value):
    """Return `value`, a kernel of layer `name`, if it is finite (raises ValueError)."""
    if not np.isfinite([value.min(), value.max()]).all():
        raise ValueError(f"has too large changes in {name}")
    return value
