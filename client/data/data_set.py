"""The common shape of the data sets: what a reader returns, whatever the official files look like."""

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
    owners : (examples,) numbers in the data set's `owners`, or None where nobody owns them.
    """

    x: np.ndarray
    y: np.ndarray
    owners: np.ndarray | None = None


@dataclass(frozen=True)
class DataSet:
    """A whole data set.

    Attributes
    ----------
    source : what was read, in words; ``fedn_partial.client.data.data_sets.load`` adds where from.
    files : SHA-256 of the official files as they were read, by name.
    test : None where neither the data set nor its reader sets test examples apart.
    owners : names of those whom the examples come from (homes, patients, writers).
    texts : small files that go into every shard: {name: text}.
    """

    source: str
    classes: tuple[str, ...]
    train: Examples
    test: Examples | None
    files: dict[str, str] = field(default_factory=dict)
    owners: tuple[str, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)
