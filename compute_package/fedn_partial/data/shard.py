"""A client's data on disk: one folder, a shard, with memory-mapped arrays and a description.

A shard folder holds ``x_train.npy``, ``y_train.npy``, ``x_test.npy``, ``y_test.npy`` and ``shard.json``.
Images are uint8 and scaled to [0, 1] where they are used; features are float32; words are int32.
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
    origin : what shard.json says beside that: official files with checksums, partition, seed, clients; for JSON.
    texts : small files that belong to the data, such as a vocabulary: {name: text}.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, ...]
    origin: dict = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_shard(folder: str | Path, shard: Shard, source: str) -> None:
    """Write a shard to `folder`, which is made; `source` says where the data come from.

    The checksums in shard.json are those of the ``.npy`` files, as ``sha256sum`` prints them.
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
    """Open the shard in `folder`; of shard.json only `classes` is needed.

    Raises
    ------
    DataError : a file is missing or damaged, or the arrays do not belong together.
    """
    folder = Path(folder)
    try:
        classes = json.loads((folder / "shard.json").read_text())["classes"]
        if not isinstance(classes, list):
            raise TypeError(f"shard.json: classes must be a list of names, found {classes!r}")
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
    except FileNotFoundError as error:
        raise DataError(
            f"no data: {error.filename} does not exist; 'data:' in client.yaml names the shard's folder"
        ) from None
    except (OSError, EOFError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{folder}: damaged data: {error}") from None
    shard = Shard(**arrays, classes=tuple(classes))
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if y.ndim != 1:
            raise DataError(f"{folder}: y_{part} has shape {y.shape}, expected one class number an example")
        if len(x) != len(y) or len(y) == 0:
            raise DataError(f"{folder}: {len(x)} x_{part} and {len(y)} y_{part}; both must be equal, and at least 1")
        if x.dtype not in (np.uint8, np.float32, np.int32) or y.dtype != np.int32:
            raise DataError(
                f"{folder}: x_{part} is {x.dtype} and y_{part} {y.dtype}; x must be uint8 (images, 0 to 255), float32 "
                "(features) or int32 (words), y int32"
            )
        if x.dtype == np.float32 and not np.isfinite(x).all():
            raise DataError(f"{folder}: x_{part} has values that are not finite")
        if x.dtype == np.int32 and x.min(initial=0) < 0:
            raise DataError(f"{folder}: x_{part} has the word {x.min()}; words are numbered from 0")
        wrong = [number for number in (y.min(), y.max()) if not 0 <= number < len(classes)]
        if wrong:
            raise DataError(f"{folder}: y_{part} has class {wrong[0]}, but shard.json names {len(classes)} classes")
    return shard


def _by_class(y: np.ndarray, classes: tuple[str, ...]) -> dict[str, int]:
    counts = np.bincount(y, minlength=len(classes)).tolist() if np.min(y, initial=0) >= 0 else []
    return dict(zip(classes, counts, strict=False))


def verify(folder: Path) -> None:
    """Raise DataError if a shard's files are not those whose checksums its shard.json has; it need not have any."""
    told = json.loads((folder / "shard.json").read_text()).get("sha256", {})
    for name, expected in told.items():
        if not (folder / name).exists() or sha256(folder / name) != expected:
            raise DataError(f"{folder / name} is missing, or is not what its shard.json says; prepare the data again")


def check_fits(shard: Shard, model) -> None:
    """Raise DataError if a Keras model cannot take the data."""
    wanted = tuple(model.input.shape[1:])
    for part in (shard.x_train, shard.x_test):
        if part.shape[1:] != wanted:
            raise DataError(f"the data have shape {part.shape[1:]} an example, the model takes {wanted}")
        if (part.dtype == np.int32) != (model.input.dtype == "int32"):
            raise DataError(f"the data are {part.dtype}, the model takes {model.input.dtype}")
        words = min((layer.input_dim for layer in model.layers if hasattr(layer, "input_dim")), default=None)
        if words is not None and not 0 <= part.min() <= part.max() < words:
            raise DataError(f"the data have words {part.min()} to {part.max()}, the model knows 0 to {words - 1}")
    outputs = model.output.shape[-1]
    if len(shard.classes) > max(2, outputs):
        raise DataError(f"the data have {len(shard.classes)} classes, the model {outputs} outputs")
