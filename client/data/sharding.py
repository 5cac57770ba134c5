"""Partition a data set into shards according to a case's `data:` section."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedn_partial.client.data import partition
from fedn_partial.client.data.data_set import DataSet, Examples
from fedn_partial.data.shard import Shard
from fedn_partial.errors import DataError
from fedn_partial.settings.case import Data, parse_partition

TEST_SHARE = 0.2  # of a client's examples, if the data set has no test examples

# Each purpose has random numbers of its own, so that test_examples does not change the training examples.
_TEST, _SUBSET, _TEST_SUBSET = 1, 2, 3


@dataclass(frozen=True)
class _Part:
    """Indices of one client's training and test examples, and of its owners (`natural` only)."""

    train: np.ndarray
    test: np.ndarray
    owners: list[int] | None = None


def make_shards(data_set: DataSet, data: Data, seed: int) -> list[Shard]:
    """Return a shard for each client.

    Training examples are partitioned as `data.partition` says. Test examples are distributed uniformly at random in
    equal parts, so that the mean over clients, weighted by test examples, is the accuracy on the whole test set, as in
    the paper; with `natural` they follow their owners. Without test examples, a fifth of each client's part is held
    out.

    Raises
    ------
    DataError : the data set cannot be partitioned so, or a client would have no training or no test examples.
    """
    _check(data_set, data)
    test_set = data_set.train if data_set.test is None else data_set.test
    train = _subset(data_set.train, data.examples, seed, _SUBSET, "examples")
    test = _subset(test_set, data.test_examples, seed, _TEST_SUBSET, "test_examples")
    if parse_partition(data.partition)[0] == "natural":
        parts = _natural(data_set, data, train, test)
    else:
        parts = _random(data_set, data, seed, train, test)
    for number, part in enumerate(parts, start=1):
        if min(len(part.train), len(part.test)) == 0:
            raise DataError(
                f"{len(train)} training and {len(test)} test examples are too few for {data.clients} clients: "
                f"client {number} would have {len(part.train)} and {len(part.test)}"
            )
    origin = {
        "data_set": data.name,
        "files": data_set.files,
        "partition": data.partition,
        "seed": seed,
        "clients": data.clients,
        "examples": len(train),
        "test_examples": None if data_set.test is None else len(test),
    }
    return [_shard(data_set, part, {**origin, "client": number}) for number, part in enumerate(parts, start=1)]


def _check(data_set: DataSet, data: Data) -> None:
    if parse_partition(data.partition)[0] == "natural" and not data_set.owners:
        raise DataError(f"data: {data.name} has no natural owners; partition may be iid or dirichlet:ALPHA")
    if data_set.test is None and data.test_examples is not None:
        raise DataError(
            f"data: {data.name} has no test examples, {TEST_SHARE:.0%} of each client's examples are held out; omit "
            "test_examples"
        )


def _natural(data_set: DataSet, data: Data, train: np.ndarray, test: np.ndarray) -> list[_Part]:
    """Partition by owner."""
    test_set = data_set.train if data_set.test is None else data_set.test
    train_owners, test_owners = data_set.train.owners[train], test_set.owners[test]
    sizes = np.bincount(train_owners, minlength=len(data_set.owners))
    return [
        _Part(train[np.isin(train_owners, group)], test[np.isin(test_owners, group)], group)
        for group in partition.natural(sizes.tolist(), data.clients)
    ]


def _random(data_set: DataSet, data: Data, seed: int, train: np.ndarray, test: np.ndarray) -> list[_Part]:
    """Partition at random (`iid`) or by label skew (`dirichlet`)."""
    kind, alpha = parse_partition(data.partition)
    random = np.random.default_rng(seed)
    if kind == "iid":
        groups = partition.iid(len(train), data.clients, random)
    else:
        groups = partition.dirichlet(data_set.train.y[train], data.clients, alpha, random)
    train_parts = [train[group] for group in groups]
    if data_set.test is None:
        cuts = [round(TEST_SHARE * len(part)) for part in train_parts]
        return [_Part(part[cut:], part[:cut]) for part, cut in zip(train_parts, cuts, strict=True)]
    groups = partition.iid(len(test), data.clients, np.random.default_rng([seed, _TEST]))
    return [_Part(part, test[group]) for part, group in zip(train_parts, groups, strict=True)]


def _shard(data_set: DataSet, part: _Part, origin: dict) -> Shard:
    test_set = data_set.train if data_set.test is None else data_set.test
    if part.owners is not None:
        origin = {**origin, "owners": [data_set.owners[owner] for owner in part.owners]}
    return Shard(
        *(data_set.train.x[part.train], data_set.train.y[part.train]),
        *(test_set.x[part.test], test_set.y[part.test]),
        data_set.classes,
        origin,
        data_set.texts,
    )


def _subset(examples: Examples, number: int | None, seed: int, purpose: int, key: str) -> np.ndarray:
    """Return the sorted indices of `number` examples drawn at random, or of all if it is None."""
    if number is None:
        return np.arange(len(examples.y))
    if number > len(examples.y):
        raise DataError(f"data: {key} is {number}, but the data set has {len(examples.y)}")
    return np.sort(np.random.default_rng([seed, purpose]).permutation(len(examples.y))[:number])
