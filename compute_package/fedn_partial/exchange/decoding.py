"""Decoding of local updates, see ``encoding`` for their format."""

from __future__ import annotations

import math

import numpy as np

from .codecs import CODECS
from .codecs.base import is_kernel, unpack
from .custom import find
from .wire import FORMAT, checksum

DTYPES = ["<f4", "|u1"]  # of the two arrays


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
    check_arrays(arrays, metadata)
    coder = find(codec, CODECS)()
    vectors, kernels = arrays[0], memoryview(arrays[1]).toreadonly()
    tensors, position, offset = {}, 0, 0
    for name in names:
        tensors[name] = []
        for shape, old in zip(layers[name], base[name], strict=True):
            if is_kernel(shape):
                value, offset = next_kernel(coder, kernels, offset, tuple(shape), old, name)
            else:
                value, position = next_vector(vectors, position, shape, name)
            tensors[name].append(check_finite(name, value))
    if (position, offset) != (vectors.size, len(kernels)):
        raise ValueError(
            f"has {vectors.size} float32 values and {len(kernels)} bytes of kernels, expected {position} and {offset} "
            f"for its layers {', '.join(names)}"
        )
    return tensors


def next_kernel(coder, kernels, offset, shape, old, name):
    """Return the kernel of layer `name` at `offset` of the memoryview `kernels`, and the offset of the next one."""
    try:
        data, offset = unpack(kernels, offset)
        with np.errstate(over="ignore", invalid="ignore"):  # refused by check_finite
            value = decode_kernel(coder, data, shape)
            return (value + old if coder.encodes_changes else value), offset
    except Exception as error:  # a custom codec may raise any
        reason = error if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(f"has an invalid kernel of shape {shape} in {name}: {reason}") from error


def next_vector(vectors, position, shape, name):
    """Return the tensor of layer `name` at `position` of array "0", and the position of the next one."""
    end = position + math.prod(shape)
    if end > vectors.size:
        raise ValueError(f"has {vectors.size} float32 values, expected {end} or more for {name}")
    return vectors[position:end].reshape(shape), end


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


def check_arrays(arrays, metadata):
    """Raise ValueError unless the arrays have their dtypes and the checksum of the metadata."""
    if [array.dtype.str for array in arrays] != DTYPES or any(array.ndim != 1 for array in arrays):
        actual = [(array.dtype.str, array.shape) for array in arrays]
        raise ValueError(f"has arrays of dtypes and shapes {actual}, expected {DTYPES} with one dimension each")
    crc = 0
    for array in arrays:
        crc = checksum(array, crc)
    if crc != metadata.get("checksum"):
        raise ValueError("does not match its checksum (damaged, or with the metadata of another update)")


def decode_kernel(codec, data, shape):
    """Return the array that `codec` decodes from the memoryview `data` (raises ValueError)."""
    limit = codec.max_bytes(shape)
    if len(data) > limit or (codec.fixed_size and len(data) < limit):
        raise ValueError(f"{len(data)} bytes, expected {limit}{'' if codec.fixed_size else ' at most'}")
    value = np.asarray(codec.decode(data, shape), np.float32)
    if value.shape != shape:
        raise ValueError(f"decode returned shape {value.shape}, expected {shape}")
    return value


def check_finite(name, value):
    """Return `value`, a tensor of layer `name`, if it is finite (raises ValueError)."""
    if value.size and not np.isfinite([value.min(), value.max()]).all():
        raise ValueError(f"has values in {name} that are not finite (NaN or infinity): the local training diverged")
    return value
