"""Data set as returned by every reader."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Examples:
    """Training or test examples.

    Attributes
    ----------
    x : (examples, *shape) uint8, float32 or int32, see ``fedn_partial.data.shard``.
    y : (examples,) int32 class numbers.
    owners : (examples,) indices into the data set's `owners`, or None without owners.
    """

    x: np.ndarray
    y: np.ndarray
    owners: np.ndarray | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes
    ----------
    source : description of the source; ``fedn_partial.client.data.data_sets.load`` appends the folder or URL.
    files : {name: SHA-256} of the official files.
    test : test examples, or None if the data set has none.
    owners : names of the owners of the examples (homes, patients, writers).
    texts : {name: text} of small files that are copied into every shard.
    """

    source: str
    classes: tuple[str, ...]
    train: Examples
    test: Examples | None
    files: dict[str, str] = field(default_factory=dict)
    owners: tuple[str, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)
