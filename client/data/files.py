"""Find and read official files, among them labels and pickles, without running code in them."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np

from fedn_partial.errors import DataError

# What pickles of NumPy arrays and of Python 2's byte strings refer to; NumPy 2 renamed one module.
_ALLOWED = {
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "_reconstruct"),
}


def find_folder(folder: Path, subfolders: tuple[str, ...], names: tuple[str, ...]) -> Path | None:
    """Return `folder` or the first of its `subfolders` that contains one of `names`, or None."""
    for candidate in (folder, *(folder / subfolder for subfolder in subfolders)):
        if any((candidate / name).exists() for name in names):
            return candidate
    return None


def glob(folder: Path, *patterns: str) -> list[Path]:
    """Return the files that match any of `patterns`, sorted, without the extra files that macOS adds."""
    paths = {path for pattern in patterns for path in folder.glob(pattern)}
    hidden = {path for path in paths if path.name.startswith("._") or "__MACOSX" in path.relative_to(folder).parts}
    return sorted(paths - hidden)


def read_file(path: Path, expected: str) -> bytes:
    """Return the content of an official file.

    Raises
    ------
    DataError : the file does not exist; the message includes `expected`.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} is missing; expected {expected}") from None


def flat_labels(labels: np.ndarray, classes: int, path: Path, name: str = "labels") -> np.ndarray:
    """Return class numbers as (n,) int32 from an array of shape (n,) or (n, 1).

    Raises
    ------
    DataError : the shape is another one (one-hot labels), or a value is not in 0 to `classes` - 1.
    """
    if labels.dtype.kind not in "ui" or labels.ndim not in (1, 2) or labels.shape[1:] not in ((), (1,)):
        raise DataError(
            f"{path}: {name} are {labels.dtype} {labels.shape}, expected integers (n,) or (n, 1); convert one-hot "
            "labels with argmax"
        )
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= classes:
        raise DataError(f"{path}: {name} must be integers from 0 to {classes - 1}")
    return labels.reshape(-1).astype(np.int32)


def unpickle(content: bytes, path: Path):
    """Return the object in a pickle of arrays, numbers, text and their collections.

    Raises
    ------
    DataError : the pickle is damaged, or contains anything else, which could run code.
    """
    try:
        return _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can raise any exception
        raise DataError(f"{path} is truncated or damaged ({error}); download it again") from None


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _ALLOWED:
            raise DataError(f"contains {module}.{name}, which the official file does not; it was not read")
        return super().find_class(module, name)
