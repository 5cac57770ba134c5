"""The local update on the wire.

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

``num_examples`` is a string on purpose. FEDn falls back to its own FedAvg when its hooks process is down, and
that would take a partial update for a whole model. Adding a string to a number makes it fail, so the round
fails and the global model stays as it is.

``digest``, ``decode`` and ``plain`` also travel to the server inside the server functions, so they use numpy and
the standard library only, and nothing else of this module.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib

import numpy as np

from fedn_partial.errors import ModelError
from fedn_partial.exchange.npz import check_npz, read_member
from fedn_partial.runtime.atomic import write_atomically, write_text

FORMAT = 2


def digest(arrays) -> str:
    """Return a hash of a global model (a list of arrays): equal exactly if all values, shapes and dtypes are."""
    import hashlib

    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()[:32]


def checksum(values, start=0) -> int:
    """Return the CRC-32 of a contiguous array's bytes, going on from `start`."""
    return zlib.crc32(values.data, start)


def plain(text, limit=200):
    """Return what a client said fit for a log or a terminal: one line, printable, at most `limit` characters."""
    printable = "".join(character if character.isprintable() else " " for character in str(text))
    return " ".join(printable.split())[:limit]


def encode(path: str, values, codec: str = "float32", base=None, residuals=None) -> int:
    """Write the values of a local update to `path` and return their checksum.

    Parameters
    ----------
    values : list, the tensors of the trained layers in the order of ``fedn_partial.submodel.update_tensors``: arrays,
        or variables that numpy makes float32 arrays of.
    base : iterable of the same tensors in the global model, for codec int8.
    residuals : list of fedn_partial.runtime.residuals.Residual, one a tensor, for codec int8.
    """
    with (
        write_atomically(path, durable=False) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        if codec == "float32":
            return _write(archive, "0", "<f4", values, 0)
        if codec == "float16":
            crc = _write(archive, "0", "<f4", [value for value in values if len(value.shape) < 2], 0)
            return _write(archive, "1", "<f2", [value for value in values if len(value.shape) > 1], crc)
        exact, steps = _quantised(values, base, residuals)
        return _write(archive, "1", "|u1", [steps], _write(archive, "0", "<f4", exact, 0))


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
    import zlib

    if not isinstance(metadata, dict) or not isinstance(arrays, list):
        raise ValueError("is not a model with its metadata")
    if metadata.get("format") != 2:
        raise ValueError(
            f"has format {metadata.get('format')!r}, this session takes 2 (do device and server run the same version?)"
        )
    if metadata.get("model") != fingerprint:
        raise ValueError(f"is for model {metadata.get('model')!r}, this session's is {fingerprint!r}")
    if metadata.get("codec") != codec:
        raise ValueError(f"has codec {metadata.get('codec')!r}, this session's is {codec!r}")
    names = metadata.get("layers")
    if not isinstance(names, list) or not names or [name for name in layers if name in names] != names:
        raise ValueError(f"names the layers {names!r}, which are not layers of the model in model order")
    dtypes = {"float32": ["<f4"], "float16": ["<f4", "<f2"], "int8": ["<f4", "|u1"]}[codec]
    if [array.dtype.str for array in arrays] != dtypes or any(array.ndim != 1 for array in arrays):
        found = [(array.dtype.str, array.shape) for array in arrays]
        raise ValueError(f"has arrays of dtypes and shapes {found}, expected {dtypes} with one dimension each")
    crc = 0
    for array in arrays:
        crc = zlib.crc32(array.data, crc)
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
    if codec != "float32":
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
            if kernels.pop(0):
                value = coded[coded_at : coded_at + size].reshape(shape).astype(np.float32)
                coded_at += size
                if codec == "int8":
                    value *= part
                    value += old
                    if not np.isfinite([value.min(), value.max()]).all():
                        raise ValueError(f"has changes of {name} that are too large")
            else:
                value = part.reshape(shape)
            tensors[name].append(value)
    return tensors


def read_model(path: str, tensors=None, only=None):
    """Yield the arrays of a global model as FEDn's numpyhelper writes it: an npz file with arrays "0" to "n-1".

    One after the other, so that a device need not hold two models. What the file declares is checked before an array
    is read, so that no file takes more memory than the model does.

    Parameters
    ----------
    tensors : list of all Tensor of the model: an array that is not exactly as one of them, with finite values, is
        refused. It may be float16 as well, if the session keeps its global model so.
    only : list of the Tensor that are wanted, if not all.

    Raises
    ------
    ModelError : not such a file, or not such a model.
    """
    try:
        headers = check_npz(path, limit_bytes=math.inf)  # the tensors say how large each array may be
    except ModelError as error:
        raise ModelError(f"{path} is not a model in FEDn's npz format: it {error}") from None
    if tensors is not None:
        _check_headers(headers, tensors)
    try:
        with zipfile.ZipFile(path) as archive:
            for index in range(len(headers)) if only is None else [tensor.index for tensor in only]:
                array = read_member(archive, index)
                if tensors is not None and not np.isfinite(array).all():
                    name = tensors[index].name
                    raise ModelError(f"global model's tensor {index} ({name}) has values that are not finite")
                yield array
    except (MemoryError, ModelError):
        raise
    except Exception as error:  # zipfile, zlib and numpy have many ways to say that a file is damaged
        raise ModelError(f"{path} is not a model in FEDn's npz format: {error}") from None


def _check_headers(headers, tensors) -> None:
    if len(headers) != len(tensors):
        raise ModelError(f"global model has {len(headers)} tensors, this model has {len(tensors)}")
    for header, tensor in zip(headers, tensors, strict=True):
        if header.shape != tensor.shape or header.dtype not in (np.dtype(tensor.dtype), np.dtype(np.float16)):
            raise ModelError(
                f"global model's tensor {tensor.index} ({tensor.name}) is {header.dtype} {header.shape}, "
                f"this model's is {tensor.dtype} {tensor.shape}"
            )
