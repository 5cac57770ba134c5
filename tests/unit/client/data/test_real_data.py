"""The official data sets, if they are beside the project, with the counts of their descriptions."""

import shutil

import numpy as np
import packs
import pytest

from fedn_partial.client.data.data_sets import load, partition_case
from fedn_partial.data import vocabulary
from fedn_partial.settings.case import Data

pytestmark = packs.needed


@pytest.fixture
def unpacked(tmp_path):
    """Unpack an archive, and remove it afterwards: together they take 500 MB."""
    yield lambda name: packs.unpack(name, tmp_path)
    shutil.rmtree(tmp_path)


def test_cifar10(unpacked):
    folder = unpacked("cifar10")
    whole = load("cifar10", folder)
    assert np.bincount(whole.train.y).tolist() == [5000] * 10
    assert np.bincount(whole.test.y).tolist() == [1000] * 10
    means = np.mean([image.reshape(-1, 3).mean(axis=0) for image in whole.train.x], axis=0)
    np.testing.assert_allclose(means, [125.1, 122.9, 113.9], atol=0.3)
    source, shards = partition_case(Data(name="cifar10", clients=10, partition="dirichlet:0.3"), 1, folder)
    assert str(folder) in source
    assert sum(len(shard.y_train) for shard in shards) == 50_000
    assert [len(shard.y_test) for shard in shards] == [1000] * 10


def test_imdb(unpacked):
    whole = load("imdb", unpacked("imdb"))
    for examples in (whole.train, whole.test):
        assert examples.x.shape == (25_000, 100)
        assert np.bincount(examples.y).tolist() == [12_500, 12_500]
        assert examples.x.min() >= 0 and examples.x.max() == vocabulary.SIZE - 1
        assert (examples.x == vocabulary.UNKNOWN).mean() < 0.05
    words = whole.texts[vocabulary.FILE].splitlines()
    assert len(words) == vocabulary.SIZE and words[2] == "the"


def test_casa(unpacked):
    folder = unpacked("casas")
    rows = {"houseA": 2369, "houseB": 38_063, "houseC": 45_371, "houseD": 5515, "houseE": 3895}
    whole = load("casa", folder)
    assert whole.owners == tuple(rows)
    train, test = (np.bincount(examples.owners) for examples in (whole.train, whole.test))
    # A fifth is held out; 9 borders with 29 windows that share events with it are in neither part.
    np.testing.assert_allclose(test, [count / 5 for count in rows.values()], rtol=0.01)
    np.testing.assert_array_equal(train + test, [count - 9 * 29 for count in rows.values()])
    for examples in (whole.train, whole.test):
        assert np.abs(examples.x).max() <= 1
    assert np.isin(["Sleep", "Cook", "Hygiene", "Other"], [whole.classes[y] for y in np.unique(whole.test.y)]).all()
    _, shards = partition_case(Data(name="casa", clients=5, partition="natural"), 1, folder)
    assert [shard.origin["owners"] for shard in shards] == [[home] for home in rows]
