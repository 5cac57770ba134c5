"""Encoding of local updates.

A local update is an npz file that FEDn's numpyhelper can load, uncompressed, with one or two arrays: the values
of every tensor of the trained layers, in the order of ``fedn_partial.submodel.update_tensors``, one after the other.
The metadata beside it says which layers they belong to. (One array a tensor would cost 236 bytes each: with VGG16's 80
tensors 19 kB, more than the trained layers themselves where the model is narrow.)

The codec says what is in them. Tensors with one dimension (biases, BatchNormalization) always travel as they are,
in array "0": they are 0.1 % of the bytes, and 8 bits would hurt them. The others, here called kernels, travel

float32 : as they are, in array "0" among the others.
float16 : rounded, in array "1".
int8 : as the change against the global model, in steps of 1/127 of the largest change of each output channel (the
    last axis), rounded to nearest; the steps' sizes are in array "0" where the kernel's values would be, the numbers
    of steps in array "1", deflated. What the rounding lost stays on the device and is added to the next change
    (error feedback, Seide et al. 2014; Karimireddy et al. 2019).
my_module:MyCodec : as the class of a custom module encodes them, see ``codecs``; in array "1" the bytes of each kernel,
    after their number (4 bytes, little endian).

``num_examples`` is a string on purpose. FEDn falls back to its own FedAvg when its hooks process is down, and
that would take a partial update for a whole model. Adding a string to a number makes it fail, so the round
fails and the global model stays as it is.
"""

from __future__ import annotations

import json
import zipfile
import zlib

import numpy as np

from fedn_partial.custom import modules, names
from fedn_partial.custom.errors import UserCodeError, at
from fedn_partial.exchange.codecs import Codec, pack
from fedn_partial.exchange.decoding import decode_kernel
from fedn_partial.exchange.wire import FORMAT, checksum
from fedn_partial.runtime.atomic import write_atomically, write_text


def encode(path: str, values, codec: str = "float32", base=None, residuals=None) -> int:
    """Write the values of a local update to `path` and return their checksum.

    Parameters
    ----------
    values : list, the tensors of the trained layers in the order of ``fedn_partial.submodel.update_tensors``: arrays,
        or variables that numpy makes float32 arrays of.
    base : iterable of the same tensors in the global model, for codec int8 and custom ones.
    residuals : list of fedn_partial.runtime.residuals.Residual, one a tensor, for the same codecs.

    Raises
    ------
    SettingsError : the codec is refused. UserCodeError : a custom codec is wrong.
    """
    encode_kernels = _custom_encoder(codec) if names.is_custom(codec) else _quantised
    with (
        write_atomically(path, durable=False) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        if codec == "float32":
            return _write(archive, "0", "<f4", values, 0)
        if codec == "float16":
            crc = _write(archive, "0", "<f4", [value for value in values if len(value.shape) < 2], 0)
            return _write(archive, "1", "<f2", [value for value in values if len(value.shape) > 1], crc)
        exact, coded = encode_kernels(values, base, residuals)
        return _write(archive, "1", "|u1", [coded], _write(archive, "0", "<f4", exact, 0))


def _quantised(values, base, residuals):
    """Return what codec int8 sends: a list of float32 arrays, and the deflated numbers of steps."""
    exact, chunks = [], []
    deflate = zlib.compressobj(strategy=zlib.Z_RLE)  # on such numbers as small as the default, and faster
    for value, old, residual in zip(values, base, residuals, strict=True):
        if len(value.shape) < 2:
            exact.append(value)
            continue
        change = np.asarray(value) - old
        change += residual.take(change.shape)
        step = np.abs(change).max(axis=tuple(range(change.ndim - 1))) / np.float32(127)
        step[step < np.finfo(np.float32).tiny] = 1  # no change in this channel
        steps = np.rint(change / step)
        change -= steps * step
        residual.keep(change)
        exact.append(step)
        chunks.append(deflate.compress(steps.astype(np.int8).data))
    return exact, np.frombuffer(b"".join([*chunks, deflate.flush()]), np.uint8)


def _custom_encoder(name: str):
    """Return a function like ``_quantised`` for the custom codec `name`."""
    codec = names.find_class(name, Codec, "codec")()

    def encode_kernels(values, base, residuals):
        exact, chunks = [], []
        for value, old, residual in zip(values, base, residuals, strict=True):
            if len(value.shape) < 2:
                exact.append(value)
                continue
            change = np.asarray(value) - old
            change += residual.take(change.shape)
            data = encode_kernel(codec, change)
            residual.keep(change - decode_as_server(codec, data, change.shape))
            chunks.append(pack(data))
        return exact, np.frombuffer(b"".join(chunks), np.uint8)

    return encode_kernels


def encode_kernel(codec: Codec, change: np.ndarray) -> bytes:
    """Return the bytes that a custom codec makes of `change` (raises UserCodeError)."""
    change.setflags(write=False)
    with modules.calling(type(codec).encode):
        data = codec.encode(change)
    if not isinstance(data, (bytes, bytearray, memoryview, np.ndarray)):
        raise UserCodeError(f"{at(type(codec).encode)}: encode returned {type(data).__name__}, expected bytes")
    return bytes(data)


def decode_as_server(codec: Codec, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Return what the server will make of the bytes of a kernel (raises UserCodeError)."""
    with modules.calling(type(codec).decode):
        return decode_kernel(codec, data, shape)


def _write(archive, name: str, dtype: str, values, crc: int) -> int:
    """Write `values` one after the other as one array, and return the checksum gone on from `crc`."""
    size = sum(int(np.prod(value.shape)) for value in values)
    member = zipfile.ZipInfo(f"{name}.npy")
    member.file_size = np.dtype(dtype).itemsize * size + 128  # tells zipfile whether it needs its form for large files
    with archive.open(member, "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": (size,)})
        for value in values:  # one at a time: a device has no memory for a second copy of all
            array = np.ascontiguousarray(value, dtype).reshape(-1)
            file.write(array.data.cast("B"))
            crc = checksum(array, crc)
    return crc


def write_metadata(path: str, metadata: dict) -> None:
    """Write an update's metadata to ``path-metadata``, where FEDn looks for it.

    Parameters
    ----------
    metadata : num_examples, model (fingerprint), base (digest), round, client, layers, codec, checksum, resources.
    """
    metadata = {"format": FORMAT, **metadata, "num_examples": str(metadata["num_examples"])}
    write_text(path + "-metadata", json.dumps(metadata), durable=False)
