"""Shards: one client's data on disk, a folder of memory-mapped arrays and a description.

A shard folder holds ``x_train.npy``, ``y_train.npy``, ``x_test.npy``, ``y_test.npy`` and ``shard.json``.
Images are uint8 (scaled to [0, 1] when used), features float32, words int32.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedn_partial.errors import DataError
from fedn_partial.runtime.atomic import write_atomically, write_text

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Shard:
    """One client's data; the arrays of an opened shard are memory-mapped.

    Attributes
    ----------
    x_train, x_test : (examples, *shape) uint8, float32 or int32.
    y_train, y_test : (examples,) int32 class numbers.
    classes : names of the classes.
    origin : further JSON values of shard.json: source files with checksums, partition, seed, clients.
    texts : small additional files, such as a vocabulary: {name: text}.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, ...]
    origin: dict = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_shard(folder: str | Path, shard: Shard, source: str) -> None:
    """Write a shard to `folder`, which is created; `source` describes the origin of the data.

    The checksums in shard.json are those of the files as printed by ``sha256sum``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ARRAYS:
        with write_atomically(folder / f"{name}.npy") as file:
            np.save(file, getattr(shard, name))
    for name, text in shard.texts.items():
        write_text(folder / name, text)
    description = {
        "source": source,
        **shard.origin,
        "classes": list(shard.classes),
        "train": len(shard.y_train),
        "train_by_class": _by_class(shard.y_train, shard.classes),
        "test": len(shard.y_test),
        "test_by_class": _by_class(shard.y_test, shard.classes),
        "sha256": {name: sha256(folder / name) for name in (*(f"{name}.npy" for name in ARRAYS), *shard.texts)},
    }
    write_text(folder / "shard.json", json.dumps(description, indent=1) + "\n")


def open_shard(folder: str | Path) -> Shard:
    """Open the shard in `folder`; shard.json needs only `classes`.

    Raises
    ------
    DataError : a file is missing or damaged, or the arrays are inconsistent.
    """
    folder = Path(folder)
    try:
        classes = json.loads((folder / "shard.json").read_text())["classes"]
        if not isinstance(classes, list):
            raise TypeError(f"shard.json: classes must be a list of names, found {classes!r}")
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
    except FileNotFoundError as error:
        raise DataError(
            f"no data: {error.filename} does not exist; set 'data:' in client.yaml to the shard's folder"
        ) from None
    except (OSError, EOFError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{folder}: damaged data: {error}") from None
    shard = Shard(**arrays, classes=tuple(classes))
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if y.ndim != 1:
            raise DataError(f"{folder}: y_{part} has shape {y.shape}, expected one class number an example")
        if len(x) != len(y) or len(y) == 0:
            raise DataError(
                f"{folder}: x_{part} has {len(x)} examples, y_{part} {len(y)}; expected equal numbers of at least 1"
            )
        if x.dtype not in (np.uint8, np.float32, np.int32) or y.dtype != np.int32:
            raise DataError(
                f"{folder}: x_{part} is {x.dtype} and y_{part} {y.dtype}; expected x uint8 (images, 0 to 255), float32 "
                "(features) or int32 (words), and y int32"
            )
        if x.dtype == np.float32 and not np.isfinite(x).all():
            raise DataError(f"{folder}: x_{part} has values that are not finite")
        if x.dtype == np.int32 and x.min(initial=0) < 0:
            raise DataError(f"{folder}: x_{part} has word number {x.min()}; expected at least 0")
        invalid = [number for number in (y.min(), y.max()) if not 0 <= number < len(classes)]
        if invalid:
            raise DataError(f"{folder}: y_{part} has class {invalid[0]}, but shard.json has {len(classes)} classes")
    return shard


def count_examples(folder: Path) -> int:
    """Return the number of training examples of the shard in `folder`, 0 if they cannot be read."""
    try:
        return len(np.load(folder / "y_train.npy", mmap_mode="r", allow_pickle=False))
    except (OSError, EOFError, TypeError, ValueError):
        return 0


def _by_class(y: np.ndarray, classes: tuple[str, ...]) -> dict[str, int]:
    counts = np.bincount(y, minlength=len(classes)).tolist() if np.min(y, initial=0) >= 0 else []
    return dict(zip(classes, counts, strict=False))


def verify(folder: Path) -> None:
    """Raise DataError unless a shard's files match the checksums in shard.json, if it has any."""
    checksums = json.loads((folder / "shard.json").read_text()).get("sha256", {})
    for name, expected in checksums.items():
        if not (folder / name).exists() or sha256(folder / name) != expected:
            raise DataError(
                f"{folder / name} is missing or does not match its checksum in shard.json; prepare the data again"
            )


def check_fits(shard: Shard, model) -> None:
    """Raise DataError unless the data fit a Keras model."""
    expected = tuple(model.input.shape[1:])
    for part in (shard.x_train, shard.x_test):
        if part.shape[1:] != expected:
            raise DataError(f"examples have shape {part.shape[1:]}, the model expects {expected}")
        if (part.dtype == np.int32) != (model.input.dtype == "int32"):
            raise DataError(f"examples are {part.dtype}, the model expects {model.input.dtype}")
        vocabulary = min((layer.input_dim for layer in model.layers if hasattr(layer, "input_dim")), default=None)
        if vocabulary is not None and not 0 <= part.min() <= part.max() < vocabulary:
            raise DataError(f"words are {part.min()} to {part.max()}, the model expects 0 to {vocabulary - 1}")
    outputs = model.output.shape[-1]
    if len(shard.classes) > max(2, outputs):
        raise DataError(f"the data have {len(shard.classes)} classes, the model has {outputs} outputs")
