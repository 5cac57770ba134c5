"""Decoding of local updates, see ``encoding`` for their format."""

from __future__ import annotations

import zlib

import numpy as np

from .codecs import unpack
from .custom import find
from .wire import FORMAT, checksum


def decode(arrays, metadata, fingerprint, codec, layers, base):
    """Return the trained tensors of an update, ``{layer: [float32 array, ...]}``, where possible as views into it.

    Parameters
    ----------
    arrays : list of arrays as numpyhelper loaded them.
    metadata : as ``write_metadata`` wrote it.
    fingerprint, codec : of the session.
    layers : ``{layer: [shape, ...]}``, the shapes of the tensors that each layer's update has.
    base : ``{layer: [array, ...]}``, the global model that the update started from.

    Raises
    ------
    ValueError : the update does not fit. The message says why.
    """
    if not isinstance(metadata, dict) or not isinstance(arrays, list):
        raise ValueError("is not a model with its metadata")
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"has format {metadata.get('format')!r}, this session takes {FORMAT} "
            "(do device and server run the same version?)"
        )
    if metadata.get("model") != fingerprint:
        raise ValueError(f"is for model {metadata.get('model')!r}, this session's is {fingerprint!r}")
    if metadata.get("codec") != codec:
        raise ValueError(f"has codec {metadata.get('codec')!r}, this session's is {codec!r}")
    names = metadata.get("layers")
    if not isinstance(names, list) or not names or [name for name in layers if name in names] != names:
        raise ValueError(f"names the layers {names!r}, which are not layers of the model in model order")
    custom = find(codec, {})() if ":" in codec else None
    dtypes = {"float32": ["<f4"], "float16": ["<f4", "<f2"]}.get(codec, ["<f4", "|u1"])
    if [array.dtype.str for array in arrays] != dtypes or any(array.ndim != 1 for array in arrays):
        found = [(array.dtype.str, array.shape) for array in arrays]
        raise ValueError(f"has arrays of dtypes and shapes {found}, expected {dtypes} with one dimension each")
    crc = 0
    for array in arrays:
        crc = checksum(array, crc)
    if crc != metadata.get("checksum"):
        raise ValueError("does not match its checksum (damaged, or metadata of another update)")
    if not all(np.isfinite([array.min(), array.max()]).all() for array in arrays if array.size):
        raise ValueError("has values that are not finite (NaN or infinity)")
    exact, coded = arrays[0], arrays[-1]
    shapes = [shape for name in names for shape in layers[name]]
    kernels = [codec != "float32" and len(shape) > 1 for shape in shapes]
    sizes = [int(np.prod(shape)) for shape in shapes]
    kernel_size = sum(size for size, kernel in zip(sizes, kernels, strict=True) if kernel)
    if codec == "int8":
        try:  # one byte more than is wanted shows that there are too many, without unpacking them all
            coded = np.frombuffer(zlib.decompressobj().decompress(coded.data, kernel_size + 1), np.int8)
        except zlib.error as error:
            raise ValueError(f"has kernels that cannot be inflated: {error}") from None
    # How many values of array "0" belong to each tensor: all, or of a kernel its step sizes, or none.
    counts = [
        size if not kernel else shape[-1] if codec == "int8" else 0
        for size, kernel, shape in zip(sizes, kernels, shapes, strict=True)
    ]
    found, wanted = exact.size, sum(counts)
    if codec in ("float16", "int8"):
        found, wanted = (found, coded.size), (wanted, kernel_size)
    if found != wanted:
        raise ValueError(f"has {found} values, its layers {', '.join(names)} have {wanted}")
    tensors, exact_at, coded_at = {}, 0, 0
    for name in names:
        tensors[name] = []
        for shape, old in zip(layers[name], base[name], strict=True):
            size = int(np.prod(shape))
            part = exact[exact_at : exact_at + counts.pop(0)]
            exact_at += part.size
            if not kernels.pop(0):
                value = part.reshape(shape)
            elif custom:
                data, coded_at = unpack(coded, coded_at)
                value = check_change(name, decode_kernel(custom, data, shape) + old)
            else:
                value = coded[coded_at : coded_at + size].reshape(shape).astype(np.float32)
                coded_at += size
                if codec == "int8":
                    value *= part
                    value += old
                    check_change(name, value)
            tensors[name].append(value)
    if custom and coded_at != coded.size:
        raise ValueError(f"has {coded.size} bytes of kernels, its layers {', '.join(names)} have {coded_at}")
    return tensors


def decode_kernel(codec, data, shape):
    """Return what `codec` decodes, checked. Raises ValueError."""
    value = np.asarray(codec.decode(bytes(data), tuple(shape)), np.float32)
    if value.shape != tuple(shape):
        raise ValueError(f"has a kernel of shape {value.shape}, expected {tuple(shape)}")
    return value


def check_change(name, value):
    """Return the new value of a kernel of layer `name`. Raises ValueError if it is not finite."""
    if not np.isfinite([value.min(), value.max()]).all():
        raise ValueError(f"has changes of {name} that are too large")
    return value
