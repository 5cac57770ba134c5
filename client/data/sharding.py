"""Shards of a data set, partitioned as a case's `data:` section asks."""

from __future__ import annotations

import numpy as np

from fedn_partial.client.data import partition
from fedn_partial.client.data.data_set import DataSet, Examples
from fedn_partial.data.shard import Shard
from fedn_partial.errors import DataError
from fedn_partial.settings.case import Data, parse_partition

TEST_SHARE = 0.2  # of a client's examples, where the data set has no test examples of its own

# Every purpose has random numbers of its own, so that asking for fewer test examples moves no training example.
_TEST, _FEWER, _FEWER_TESTS = 1, 2, 3


def make_shards(data_set: DataSet, data: Data, seed: int) -> list[Shard]:
    """Return a shard for each client.

    Training examples go where the partition says. Test examples go in equal parts at random to all clients, so that
    the mean over clients, weighted by test examples, is the accuracy on the whole test set, as the paper reports it;
    with `natural` to the clients of their owners. Where there are none, a fifth of each client's part is held out.

    Raises
    ------
    DataError : the data set cannot be partitioned so, or some client would get nothing to train or to test.
    """
    kind, alpha = parse_partition(data.partition)
    if kind == "natural" and not data_set.owners:
        raise DataError(f"data: {data.name} has no natural owners; partition may be iid or dirichlet:ALPHA")
    if data_set.test is None and data.test_examples is not None:
        raise DataError(
            f"data: {data.name} has no test examples of its own, {TEST_SHARE:.0%} of each client's are held out; "
            "leave test_examples out"
        )
    everything = data_set.train if data_set.test is None else data_set.test
    train = _fewer(data_set.train, data.examples, seed, _FEWER, "examples")
    test = _fewer(everything, data.test_examples, seed, _FEWER_TESTS, "test_examples")

    owners = None
    if kind == "natural":
        sizes = np.bincount(data_set.train.owners[train], minlength=len(data_set.owners))
        owners = partition.natural(sizes.tolist(), data.clients)
        train_parts = [train[np.isin(data_set.train.owners[train], group)] for group in owners]
        test_parts = [test[np.isin(everything.owners[test], group)] for group in owners]
    else:
        random = np.random.default_rng(seed)
        if kind == "iid":
            parts = partition.iid(len(train), data.clients, random)
        else:
            parts = partition.dirichlet(data_set.train.y[train], data.clients, alpha, random)
        train_parts = [train[part] for part in parts]
        if data_set.test is None:
            cuts = [round(TEST_SHARE * len(part)) for part in train_parts]
            test_parts = [part[:cut] for part, cut in zip(train_parts, cuts, strict=True)]
            train_parts = [part[cut:] for part, cut in zip(train_parts, cuts, strict=True)]
        else:
            parts = partition.iid(len(test), data.clients, np.random.default_rng([seed, _TEST]))
            test_parts = [test[part] for part in parts]
    for number, (mine, tests) in enumerate(zip(train_parts, test_parts, strict=True), start=1):
        if min(len(mine), len(tests)) == 0:
            raise DataError(
                f"{len(train)} examples to train and {len(test)} to test are too few for {data.clients} clients: "
                f"client {number} would get {len(mine)} and {len(tests)}"
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
    return [
        Shard(
            data_set.train.x[mine],
            data_set.train.y[mine],
            everything.x[tests],
            everything.y[tests],
            data_set.classes,
            {**origin, "client": number + 1}
            | ({"owners": [data_set.owners[owner] for owner in owners[number]]} if owners else {}),
            data_set.texts,
        )
        for number, (mine, tests) in enumerate(zip(train_parts, test_parts, strict=True))
    ]


def _fewer(examples: Examples, wanted: int | None, seed: int, purpose: int, key: str) -> np.ndarray:
    """Return the indices of `wanted` examples drawn at random, in their order, or of all."""
    if wanted is None:
        return np.arange(len(examples.y))
    if wanted > len(examples.y):
        raise DataError(f"data: {key} is {wanted}, but there are {len(examples.y)}")
    return np.sort(np.random.default_rng([seed, purpose]).permutation(len(examples.y))[:wanted])
