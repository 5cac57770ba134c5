"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images, 32x32, ten classes of equal size.

Read from the python version (``cifar-10-batches-py``, also in Keras' ``~/.keras/datasets``), the binary version
(``cifar-10-batches-bin``), or Keras' arrays saved as ``cifar10.npz``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from fedn_partial.client.data import files
from fedn_partial.client.data.data_set import DataSet, Examples
from fedn_partial.client.data.download import Archive
from fedn_partial.data.shard import sha256
from fedn_partial.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = Archive(
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ("cifar-10-batches-py/",),
)
TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = "test_batch"
PIXELS = 3 * 32 * 32
NPZ = "cifar10.npz"
PYTHON_FOLDERS = (
    "cifar-10-batches-py",
    "cifar-10-batches-py-target/cifar-10-batches-py",  # below ~/.keras/datasets, in Keras 3.15
)


def read(folder: Path) -> DataSet:
    """Return images (n, 32, 32, 3) uint8 and classes (n,) int32.

    Raises
    ------
    DataError : files are missing, damaged or not CIFAR-10's.
    """
    for version, subfolders, suffix, parse in (
        ("python", PYTHON_FOLDERS, "", _parse_python),
        ("binary", ("cifar-10-batches-bin",), ".bin", _parse_binary),
    ):
        names = tuple(name + suffix for name in (*TRAIN, TEST))
        home = files.find_folder(folder, subfolders, names)
        if home is not None:
            return _read_batches(home, version, names, parse)
    if (folder / NPZ).exists():
        return _read_npz(folder / NPZ)
    raise DataError(
        f"no CIFAR-10 in {folder}: expected data_batch_1 to data_batch_5 and test_batch (also below "
        f"cifar-10-batches-py/), the same with .bin (also below cifar-10-batches-bin/), or {NPZ}"
    )


def _read_batches(home: Path, version: str, names: tuple[str, ...], parse) -> DataSet:
    batches, checksums = [], {}
    for name in names:
        content = files.read_file(home / name, f"the {len(names)} files {', '.join(names)}")
        checksums[name] = hashlib.sha256(content).hexdigest()
        batches.append(parse(content, home / name))
    # Each has 10,000 images; a file truncated between two images has fewer.
    sizes = [len(y) for _, y in batches]
    for name, size in zip(names, sizes, strict=True):
        if size < max(sizes):
            raise DataError(f"{home / name} has {size} images, expected {max(sizes)} as in the other files")
    x, y = (np.concatenate(arrays) for arrays in zip(*batches[:-1], strict=True))
    return DataSet(f"CIFAR-10, {version} version", CLASSES, Examples(x, y), Examples(*batches[-1]), checksums)


def _parse_python(content: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    batch = files.unpickle(content, path)
    if not isinstance(batch, dict) or not {b"data", b"labels"} <= batch.keys():
        raise DataError(f"{path} is not a CIFAR-10 batch; expected a pickled dictionary with data and labels")
    try:
        planes, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except ValueError:  # rows of different lengths
        raise DataError(f"{path}: data and labels must be arrays") from None
    return _images(planes, labels, path)


def _parse_binary(content: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not content or len(content) % (1 + PIXELS):
        raise DataError(f"{path} is truncated or damaged: {len(content)} bytes, expected a multiple of {1 + PIXELS}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    return _images(rows[:, 1:], rows[:, 0], path)


def _images(planes: np.ndarray, labels: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images from rows of 1,024 red, 1,024 green and 1,024 blue values."""
    labels = files.flat_labels(labels, len(CLASSES), path)
    if planes.dtype != np.uint8 or planes.shape != (len(labels), PIXELS) or len(labels) == 0:
        raise DataError(
            f"{path}: data are {planes.dtype} {planes.shape} for {len(labels)} labels, expected uint8, {PIXELS} each"
        )
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def _read_npz(path: Path) -> DataSet:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            content = {name: arrays[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    except Exception as error:  # zipfile, zlib and numpy raise many kinds for a damaged file
        raise DataError(f"{path}: {error}; expected arrays x_train, y_train, x_test and y_test") from None
    parts = []
    for part in ("train", "test"):
        x, y = content[f"x_{part}"], files.flat_labels(content[f"y_{part}"], len(CLASSES), path, f"y_{part}")
        if x.dtype != np.uint8 or x.shape != (len(y), 32, 32, 3) or len(y) == 0:
            raise DataError(f"{path}: x_{part} is {x.dtype} {x.shape}, expected uint8 ({len(y)}, 32, 32, 3)")
        parts.append(Examples(x, y))
    return DataSet("CIFAR-10, arrays of Keras", CLASSES, *parts, {path.name: sha256(path)})
