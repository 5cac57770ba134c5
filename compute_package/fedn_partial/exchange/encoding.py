"""Encoding of local updates.

A local update is an uncompressed npz file that FEDn's numpyhelper can load, with one or two flat arrays: the
concatenated values of all tensors of the trained layers, in the order of ``fedn_partial.submodel.update_tensors``. Its
metadata name the layers. (One array per tensor would add 236 bytes each: 19 kB for VGG16's 80 tensors, more than the
trained layers of a narrow model.)

Tensors with one dimension (biases, BatchNormalization) are always sent as float32, in array "0": they are 0.1 % of the
bytes and sensitive to quantisation. The encoding of the others, called kernels, depends on the codec:

float32 : unchanged, in array "0" among the others.
float16 : rounded, in array "1".
int8 : the change from the global model, quantised to multiples of a step, 1/127 of the largest change of each output
    channel (the last axis). Array "0" holds the step sizes in place of the kernel's values, array "1" the deflated
    int8 multiples. The rounding error stays on the device and is added to the next change (error feedback, Seide et
    al. 2014; Karimireddy et al. 2019).
my_module:MyCodec : encoded by a custom class, see ``codecs``; array "1" holds the bytes of each kernel, prefixed with
    their length (4 bytes, little endian).

``num_examples`` is a string on purpose: FEDn falls back to its own FedAvg when its hooks process is down, which would
average partial updates as whole models. With a string FedAvg fails, and the round with it; the global model is kept.
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
    values : list of the tensors of the trained layers, in the order of ``fedn_partial.submodel.update_tensors``:
        arrays, or variables convertible to float32 arrays.
    base : iterable of the same tensors in the global model, for codec int8 and custom codecs.
    residuals : list of fedn_partial.runtime.residuals.Residual, one per tensor, for the same codecs.

    Raises
    ------
    SettingsError : invalid codec. UserCodeError : a custom codec fails.
    """
    coder = _custom_encoder(codec) if names.is_custom(codec) else _quantiser()
    with (
        write_atomically(path, durable=False) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        if codec == "float32":
            return _write(archive, "0", "<f4", values, 0)
        if codec == "float16":
            crc = _write(archive, "0", "<f4", [value for value in values if len(value.shape) < 2], 0)
            return _write(archive, "1", "<f2", [value for value in values if len(value.shape) > 1], crc)
        exact, coded = _encode_changes(values, base, residuals, *coder)
        return _write(archive, "1", "|u1", [coded], _write(archive, "0", "<f4", exact, 0))


def _encode_changes(values, base, residuals, encode_change, flush):
    """Return the float32 arrays and the bytes of an update whose kernels travel as encoded changes.

    Parameters
    ----------
    encode_change : function of a kernel's change that returns float32 arrays, bytes, and the residual.
    flush : function that returns the last bytes.
    """
    exact, chunks = [], []
    for value, old, residual in zip(values, base, residuals, strict=True):
        if len(value.shape) < 2:
            exact.append(value)
            continue
        change = np.asarray(value) - old
        change += residual.load(change.shape)
        arrays, data, rest = encode_change(change)
        residual.save(rest)
        exact += arrays
        chunks.append(data)
    return exact, np.frombuffer(b"".join([*chunks, flush()]), np.uint8)


def _quantiser():
    """Return `encode_change` and `flush` of codec int8: the steps, and the deflated multiples of them."""
    deflate = zlib.compressobj(strategy=zlib.Z_RLE)  # as small as the default strategy here, and faster

    def encode_change(change):
        step = np.abs(change).max(axis=tuple(range(change.ndim - 1))) / np.float32(127)
        step[step < np.finfo(np.float32).tiny] = 1  # no change in this channel
        multiples = np.rint(change / step)
        change -= multiples * step
        return [step], deflate.compress(multiples.astype(np.int8).data), change

    return encode_change, deflate.flush


def _custom_encoder(name: str):
    """Return `encode_change` and `flush` of the custom codec `name`."""
    codec = names.find_class(name, Codec, "codec")()

    def encode_change(change):
        data = encode_kernel(codec, change)
        return [], pack(data), change - decode_as_server(codec, data, change.shape)

    return encode_change, bytes


def encode_kernel(codec: Codec, change: np.ndarray) -> bytes:
    """Return `change` encoded by a custom codec (raises UserCodeError)."""
    change.setflags(write=False)
    with modules.calling(type(codec).encode):
        data = codec.encode(change)
    if not isinstance(data, (bytes, bytearray, memoryview, np.ndarray)):
        raise UserCodeError(f"{at(type(codec).encode)}: encode returned {type(data).__name__}, expected bytes")
    return bytes(data)


def decode_as_server(codec: Codec, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Return the kernel that the server will decode from `data` (raises UserCodeError)."""
    with modules.calling(type(codec).decode):
        return decode_kernel(codec, data, shape)


def _write(archive, name: str, dtype: str, values, crc: int) -> int:
    """Write `values` concatenated to one array, and return the checksum continued from `crc`."""
    size = sum(int(np.prod(value.shape)) for value in values)
    member = zipfile.ZipInfo(f"{name}.npy")
    member.file_size = np.dtype(dtype).itemsize * size + 128  # lets zipfile decide whether zip64 is needed
    with archive.open(member, "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": (size,)})
        for value in values:  # one at a time: a device lacks memory for a second copy of all
            array = np.ascontiguousarray(value, dtype).reshape(-1)
            file.write(array.data.cast("B"))
            crc = checksum(array, crc)
    return crc


def write_metadata(path: str, metadata: dict) -> None:
    """Write an update's metadata to ``path-metadata``, where FEDn reads it.

    Parameters
    ----------
    metadata : num_examples, model (fingerprint), base (digest), round, client, layers, codec, checksum, resources.
    """
    metadata = {"format": FORMAT, **metadata, "num_examples": str(metadata["num_examples"])}
    write_text(path + "-metadata", json.dumps(metadata), durable=False)
