"""Encoding of local updates.

A local update is an uncompressed npz file that FEDn's numpyhelper can load, with two flat arrays: "0", the float32
values of all tensors that are not kernels, and "1", the bytes of the kernels as encoded by the session's codec, each
prefixed with their length (4 bytes, little endian); see ``codecs.base``. Both are in the order of
``fedn_partial.submodel.update_tensors``. Its metadata name the layers. (One array per tensor would add 236 bytes each:
19 kB for VGG16's 80 tensors, more than the trained layers of a narrow model.)

``num_examples`` is a string on purpose: FEDn falls back to its own FedAvg when its hooks process is down, which would
average partial updates as whole models. With a string FedAvg fails, and the round with it; the global model is kept.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Iterator

import numpy as np

from fedn_partial.custom import modules, names
from fedn_partial.custom.errors import UserCodeError, at
from fedn_partial.exchange.codecs import CODECS, DEFAULT, Codec
from fedn_partial.exchange.codecs.base import LENGTH, is_kernel, prefix
from fedn_partial.exchange.decoding import decode_kernel
from fedn_partial.exchange.wire import FORMAT, checksum
from fedn_partial.runtime.atomic import write_atomically, write_text


def encode(path: str, values, codec: str = DEFAULT, base=None, residuals=None) -> int:
    """Write the values of a local update to `path` and return their checksum.

    Parameters
    ----------
    values : list of the tensors of the trained layers, in the order of ``fedn_partial.submodel.update_tensors``:
        arrays, or variables convertible to float32 arrays.
    base : iterable of the same tensors in the global model, for codecs of changes.
    residuals : list of fedn_partial.runtime.residuals.Residual, one per tensor, for the same codecs.

    Raises
    ------
    SettingsError : invalid codec. UserCodeError : a custom codec fails.
    """
    coder = names.make(codec, CODECS, Codec, "codec")
    vectors = [value for value in values if not is_kernel(value.shape)]
    shapes = [tuple(value.shape) for value in values if is_kernel(value.shape)]
    kernels = (
        _encode_changes(values, base, residuals, coder) if coder.encodes_changes else _encode_values(values, coder)
    )
    if coder.fixed_size:  # encoded while they are written
        size = sum(LENGTH + coder.max_bytes(shape) for shape in shapes)
    else:
        kernels = list(kernels)
        size = sum(map(len, kernels))
    with (
        write_atomically(path, durable=False) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        count = sum(math.prod(vector.shape) for vector in vectors)
        crc = _write(archive, "0", "<f4", count, (np.ascontiguousarray(vector, "<f4") for vector in vectors), 0)
        return _write(archive, "1", "|u1", size, kernels, crc)


def _encode_values(values, coder: Codec) -> Iterator[bytes | memoryview]:
    """Yield the length and the data of each kernel."""
    for value in values:
        if is_kernel(value.shape):
            yield from _with_length(encode_kernel(coder, value))


def _encode_changes(values, base, residuals, coder: Codec) -> Iterator[bytes | memoryview]:
    """Yield the length and the data of each kernel's change, and save its residual."""
    for value, old, residual in zip(values, base, residuals, strict=True):
        if is_kernel(value.shape):
            yield from _with_length(_encode_change(coder, np.asarray(value, np.float32) - old, residual))


def _encode_change(coder: Codec, change: np.ndarray, residual) -> memoryview:
    change += residual.load(change.shape)
    data = encode_kernel(coder, change)
    residual.save(change - decode_as_server(coder, data, change.shape))
    return data


def _with_length(data: memoryview) -> Iterator[bytes | memoryview]:
    yield prefix(data)
    yield data


def encode_kernel(codec: Codec, values) -> memoryview:
    """Return the bytes of an array or variable encoded by `codec` (raises UserCodeError)."""
    values = np.ascontiguousarray(values, np.float32).view()
    values.setflags(write=False)
    cls = type(codec)
    with modules.calling(cls), modules.calling(cls.encode):
        data = codec.encode(values)
        if isinstance(data, np.ndarray):
            data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        elif not isinstance(data, (bytes, bytearray, memoryview)):
            raise UserCodeError(f"{at(cls.encode)}: encode returned {type(data).__name__}, expected bytes")
        if not codec.fixed_size:  # a codec may use its buffer again for the next kernel
            data = bytes(data)
        data = memoryview(data).cast("B").toreadonly()
    with modules.calling(cls), modules.calling(cls.max_bytes):
        limit = codec.max_bytes(values.shape)
        fits = len(data) == limit if codec.fixed_size else len(data) <= limit
    if not fits:
        raise UserCodeError(
            f"{at(cls)}: encode returned {len(data)} bytes for shape {values.shape}, but max_bytes returned {limit}"
        )
    return data


def decode_as_server(codec: Codec, data: memoryview, shape: tuple[int, ...]) -> np.ndarray:
    """Return the kernel that the server will decode from `data` (raises UserCodeError)."""
    cls = type(codec)
    with modules.calling(cls), modules.calling(cls.decode):
        return decode_kernel(codec, data, shape)


def _write(archive, name: str, dtype: str, size: int, chunks: Iterable, crc: int) -> int:
    """Write `chunks` as one array of `size` values, and return the checksum continued from `crc`."""
    member = zipfile.ZipInfo(f"{name}.npy")
    member.file_size = np.dtype(dtype).itemsize * size + 128  # lets zipfile decide whether zip64 is needed
    with archive.open(member, "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": (size,)})
        for chunk in chunks:  # one at a time: a device lacks memory for a second copy of all
            file.write(memoryview(chunk).cast("B"))
            crc = checksum(chunk, crc)
            del chunk  # before the next one is encoded
    return crc


def write_metadata(path: str, metadata: dict) -> None:
    """Write an update's metadata to ``path-metadata``, where FEDn reads it.

    Parameters
    ----------
    metadata : num_examples, model (fingerprint), base (digest), round, client, layers, codec, checksum, resources.
    """
    metadata = {"format": FORMAT, **metadata, "num_examples": str(metadata["num_examples"])}
    write_text(path + "-metadata", json.dumps(metadata), durable=False)
