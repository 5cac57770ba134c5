"""Updates as devices write them and FEDn loads them, without a session; see ``fedn_partial.exchange``."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from fedn.utils.helpers.plugins.numpyhelper import Helper

from fedn_partial.exchange import decoding, encoding, wire
from fedn_partial.runtime.residuals import Residual

KERNELS = {"a": [(3, 3, 8, 16), (16,)], "b": [(40, 12), (12,)]}  # {layer: shapes}


def randoms(shapes, seed=1) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape, dtype=np.float32) for shape in shapes]


def flat(layers) -> list:
    """Return the elements of {layer: list} in one list."""
    return [element for elements in layers.values() for element in elements]


def by_layer(layers, elements) -> dict[str, list]:
    """Return `elements` as {layer: list}, as many in a list as in `layers`."""
    rest = iter(elements)
    return {name: [next(rest) for _ in shapes] for name, shapes in layers.items()}


def residuals(folder: Path, layers=KERNELS) -> list[Residual]:
    """Return the residuals of all tensors in `folder`."""
    return [Residual(folder / f"{index}.npy") for index in range(len(flat(layers)))]


def encoded(folder: Path, codec: str, values, base, layers=KERNELS, memory=None):
    """Write an update of all `layers`; return the two arrays that FEDn loads, and its metadata.

    Without `memory`, all residuals are zero.
    """
    path = str(folder / "update.npz")
    checksum = encoding.encode(path, values, codec, iter(base), memory or residuals(Path(mkdtemp(dir=folder)), layers))
    metadata = {"format": 3, "model": "f", "codec": codec, "layers": list(layers), "checksum": checksum}
    return Helper().load(path), metadata


def decoded(arrays, metadata, base, layers=KERNELS) -> list[np.ndarray]:
    """Return the decoded tensors in one list (raises ValueError)."""
    return flat(decoding.decode(arrays, metadata, "f", metadata["codec"], layers, by_layer(layers, base)))


def through_the_wire(folder: Path, codec: str, values, base, layers=KERNELS, memory=None) -> list[np.ndarray]:
    return decoded(*encoded(folder, codec, values, base, layers, memory), base, layers)


def checksum(arrays) -> int:
    crc = 0
    for array in arrays:
        crc = wire.checksum(np.ascontiguousarray(array), crc)
    return crc


def changed(arrays, metadata, change):
    """Return changed arrays, and metadata with their checksum, so that it is not the reason of a refusal."""
    arrays = change(*arrays)
    return arrays, {**metadata, "checksum": checksum(arrays)}


def after(data: bytes | np.ndarray) -> np.ndarray:
    """Return array "1" of an update whose only kernel is encoded as `data`."""
    data = bytes(data)
    return np.frombuffer(len(data).to_bytes(4, "little") + data, np.uint8)
