"""The local update on the wire.

A local update is an npz file that FEDn's numpyhelper can load, uncompressed, with one array "0": the values of
every tensor of the trained layers, in the order of ``model.get_weights()``, one after the other. The metadata
beside it says which layers they belong to. (One array a tensor would cost 236 bytes each: with VGG16's 80
tensors 19 kB, more than the trained layers themselves where the model is narrow.)

``num_examples`` is a string on purpose. FEDn falls back to its own FedAvg when its hooks process is down, and
that would take a partial update for a whole model. Adding a string to a number makes it fail, so the round
fails and the global model stays as it is.

``digest``, ``decode`` and ``plain`` also travel to the server inside the server functions, so they use numpy and
the standard library only, and nothing else of this module.
"""

from __future__ import annotations

import json
import zipfile

import numpy as np

from fedn_partial.errors import FednPartialError

FORMAT = 1


class ModelError(FednPartialError):
    """A global model that is damaged, or not of this session."""


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
    import zlib

    return zlib.crc32(values.data, start)


def plain(text, limit=200):
    """Return what a client said fit for a log or a terminal: one line, printable, at most `limit` characters."""
    printable = "".join(character if character.isprintable() else " " for character in str(text))
    return " ".join(printable.split())[:limit]


def encode(path: str, tensors) -> int:
    """Write the values of a local update to `path` and return their checksum.

    Parameters
    ----------
    tensors : list of float32 arrays: those of the trained layers, in the order of ``model.get_weights()``.
    """
    size = sum(tensor.size for tensor in tensors)
    crc = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        member = zipfile.ZipInfo("0.npy")
        member.file_size = 4 * size + 128  # tells zipfile whether it needs its form for large files
        with archive.open(member, "w") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (size,)})
            for tensor in tensors:  # one after the other: a device has no memory for a second copy of all
                values = np.ascontiguousarray(tensor, "<f4").reshape(-1)
                file.write(values.data.cast("B"))
                crc = checksum(values, crc)
    return crc


def write_metadata(path: str, metadata: dict) -> None:
    """Write an update's metadata to ``path-metadata``, where FEDn looks for it.

    Parameters
    ----------
    metadata : num_examples, model (fingerprint), base (digest), round, client, layers, codec, checksum, resources.
    """
    metadata = {"format": FORMAT, **metadata, "num_examples": str(metadata["num_examples"])}
    with open(path + "-metadata", "w") as file:
        json.dump(metadata, file)


def decode(arrays, metadata, fingerprint, codec, layers):
    """Return the trained tensors of an update, ``{layer: [array, ...]}``, as views into it.

    Parameters
    ----------
    arrays : list of arrays as numpyhelper loaded them.
    metadata : as ``encode`` wrote it.
    fingerprint, codec : of the session.
    layers : ``{layer: [shape, ...]}``, the shapes of each layer's tensors in the order of ``get_weights()``;
        the layers themselves in model order.

    Raises
    ------
    ValueError : the update does not fit. The message says why.
    """
    import zlib

    if not isinstance(metadata, dict) or not isinstance(arrays, list):
        raise ValueError("is not a model with its metadata")
    if metadata.get("format") != 1:
        raise ValueError(
            f"has format {metadata.get('format')!r}, this session takes 1 (do device and server run the same version?)"
        )
    if metadata.get("model") != fingerprint:
        raise ValueError(f"is for model {metadata.get('model')!r}, this session's is {fingerprint!r}")
    if metadata.get("codec") != codec:
        raise ValueError(f"has codec {metadata.get('codec')!r}, this session's is {codec!r}")
    names = metadata.get("layers")
    if not isinstance(names, list) or not names or [name for name in layers if name in names] != names:
        raise ValueError(f"names the layers {names!r}, which are not layers of the model in model order")
    if len(arrays) != 1 or arrays[0].ndim != 1:
        raise ValueError(f"has arrays of shapes {[array.shape for array in arrays]}, expected one with one dimension")
    values = arrays[0]
    if values.dtype != np.dtype("<f4"):
        raise ValueError(f"has values of dtype {values.dtype}, expected float32")
    sizes = [int(np.prod(shape)) for name in names for shape in layers[name]]
    if values.size != sum(sizes):
        raise ValueError(f"has {values.size} values, its layers {', '.join(names)} have {sum(sizes)}")
    if zlib.crc32(values.data) != metadata.get("checksum"):
        raise ValueError("does not match its checksum (damaged, or metadata of another update)")
    if not np.isfinite(values).all():
        raise ValueError("has values that are not finite (NaN or infinity)")
    parts = iter(np.split(values, np.cumsum(sizes)[:-1]))
    return {name: [next(parts).reshape(shape) for shape in layers[name]] for name in names}


def shapes(layers) -> dict[str, list[list[int]]]:
    """Return ``{layer: [shape, ...]}`` of a layer table, as ``decode`` wants it."""
    return {layer.name: [list(tensor.shape) for tensor in layer.tensors] for layer in layers}


def read_model(path: str) -> list[np.ndarray]:
    """Load a global model as FEDn's numpyhelper writes it: an npz file with arrays "0" to "n-1".

    Raises
    ------
    ModelError : not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [archive[str(index)] for index in range(len(archive.files))]
    except MemoryError:
        raise
    except Exception as error:  # zipfile, zlib and numpy have many ways to say that a file is damaged
        raise ModelError(f"{path} is not a model in FEDn's npz format: {error}") from None


def check_model(arrays: list[np.ndarray], tensors) -> None:
    """Raise ModelError if a global model does not have exactly these tensors, all finite float32 values."""
    if len(arrays) != len(tensors):
        raise ModelError(f"global model has {len(arrays)} tensors, this model has {len(tensors)}")
    for array, tensor in zip(arrays, tensors, strict=True):
        if array.shape != tensor.shape or str(array.dtype) != tensor.dtype:
            raise ModelError(
                f"global model's tensor {tensor.index} ({tensor.name}) is {array.dtype} {array.shape}, "
                f"this model's is {tensor.dtype} {tensor.shape}"
            )
        if not np.isfinite(array).all():
            raise ModelError(f"global model's tensor {tensor.index} ({tensor.name}) has values that are not finite")
