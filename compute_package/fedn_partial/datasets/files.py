"""Reading official files: where they are, their checksums, and pickles that can run no code."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path

from fedn_partial.errors import DataError

# What NumPy arrays and byte strings of Python 2 are made of in a pickle; NumPy 2 calls one of its modules otherwise.
_HARMLESS = {
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "_reconstruct"),
}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def find_folder(folder: Path, subfolder: str, names: tuple[str, ...]) -> Path | None:
    """Return `folder` or its `subfolder`, whichever holds a file or a folder with one of `names`; or None."""
    for candidate in (folder, folder / subfolder):
        if any((candidate / name).exists() for name in names):
            return candidate
    return None


def read_file(path: Path, expected: str) -> bytes:
    """Return the content of an official file.

    Raises
    ------
    DataError : there is no such file; the message says what was `expected`.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} is missing; expected {expected}") from None


def unpickle(content: bytes, path: Path):
    """Return what an official file holds as a pickle, if that is only arrays, numbers, text and their collections.

    Raises
    ------
    DataError : the pickle is damaged, or holds anything else (a pickle can run any code).
    """
    try:
        return _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{path} is truncated or damaged ({error}); get it again from its source") from None


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _HARMLESS:
            raise DataError(f"holds {module}.{name}, which the official file does not; it is not read")
        return super().find_class(module, name)
