"""Shards on disk and how examples are dealt to clients; the digits against scikit-learn's own."""

import dataclasses
import json

import numpy as np
import pytest

from fedn_partial.datasets import ARRAYS, DataError, Shard, deal, deal_case, open_shard, write_shard
from fedn_partial.settings import Data


@pytest.fixture
def shard():
    random = np.random.default_rng(2)
    return Shard(
        x_train=random.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8),
        y_train=np.array([0, 1, 2, 0, 1, 2], np.int32),
        x_test=random.integers(0, 256, (2, 4, 4, 3), dtype=np.uint8),
        y_test=np.array([2, 0], np.int32),
        classes=("walk", "sit", "sleep"),
    )


def test_shard_comes_back_from_disk(tmp_path, shard):
    write_shard(tmp_path / "new" / "folder", shard, "made here")
    opened = open_shard(tmp_path / "new" / "folder")
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(opened, name), getattr(shard, name), strict=True)
    assert opened.classes == shard.classes


def test_opened_arrays_are_memory_mapped_and_read_only(tmp_path, shard):
    write_shard(tmp_path, shard, "made here")
    opened = open_shard(tmp_path)
    for name in ARRAYS:
        array = getattr(opened, name)
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


def test_shard_describes_itself(tmp_path, shard):
    write_shard(tmp_path, shard, "made here")
    assert json.loads((tmp_path / "shard.json").read_text()) == {
        "source": "made here",
        "classes": ["walk", "sit", "sleep"],
        "train": 6,
        "test": 2,
    }


@pytest.mark.parametrize("name", [*(f"{name}.npy" for name in ARRAYS), "shard.json"])
def test_missing_file_is_named(tmp_path, shard, name):
    write_shard(tmp_path, shard, "made here")
    (tmp_path / name).unlink()
    with pytest.raises(DataError) as error:
        open_shard(tmp_path)
    assert str(tmp_path / name) in str(error.value)
    assert "client.yaml" in str(error.value)


@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: content[:-3], lambda content: b"no array" + content],
    ids=["empty", "truncated", "garbage"],
)
@pytest.mark.parametrize("name", ["x_train.npy", "y_test.npy", "shard.json"])
def test_damaged_file_is_refused(tmp_path, shard, name, damage):
    write_shard(tmp_path, shard, "made here")
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{tmp_path}.*damaged data"):
        open_shard(tmp_path)


@pytest.mark.parametrize("description", [{}, [], {"classes": 3}, {"classes": None}])
def test_description_without_a_list_of_classes_is_refused(tmp_path, shard, description):
    write_shard(tmp_path, shard, "made here")
    (tmp_path / "shard.json").write_text(json.dumps(description))
    with pytest.raises(DataError, match="damaged data"):
        open_shard(tmp_path)


def test_pickled_array_is_refused(tmp_path, shard):
    write_shard(tmp_path, shard, "made here")
    np.save(tmp_path / "x_train.npy", np.array([{}] * 6, object))
    with pytest.raises(DataError, match="damaged data"):
        open_shard(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"y_train": np.zeros(5, np.int32)}, "6 x_train and 5 y_train"),
        ({"x_test": np.zeros((3, 4, 4, 3), np.uint8)}, "3 x_test and 2 y_test"),
        ({"x_test": np.zeros((0, 4, 4, 3), np.uint8), "y_test": np.zeros(0, np.int32)}, "0 x_test and 0 y_test"),
        ({"y_test": np.array([3, 0], np.int32)}, "y_test has class 3, but shard.json names 3 classes"),
        ({"y_train": np.array([0, 1, 2, 0, 1, -1], np.int32)}, "y_train has class -1"),
        ({"x_train": np.zeros((6, 4, 4, 3), np.float64)}, "x_train is float64"),
        ({"y_test": np.zeros(2, np.int64)}, "y_test int64"),
        ({"x_test": np.full((2, 4, 4, 3), np.nan, np.float32)}, "x_test has values that are not finite"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(tmp_path, shard, change, told):
    write_shard(tmp_path, dataclasses.replace(shard, **change), "made here")
    with pytest.raises(DataError) as error:
        open_shard(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert told in str(error.value)


def numbered(examples):
    """Examples that hold their own number, and a class that follows from it."""
    numbers = np.arange(examples)
    return numbers.reshape(-1, 1).astype(np.float32), (numbers % 3).astype(np.int32)


@pytest.mark.parametrize(("examples", "clients"), [(100, 1), (100, 4), (101, 4), (30, 10)])
def test_every_example_is_dealt_once(examples, clients):
    shards = deal(*numbered(examples), clients, seed=1, classes="abc")
    assert len(shards) == clients
    dealt = [int(number) for shard in shards for part in (shard.x_train, shard.x_test) for number in part[:, 0]]
    assert sorted(dealt) == list(range(examples))
    sizes = [len(shard.x_train) + len(shard.x_test) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


def test_dealt_examples_keep_their_class():
    for shard in deal(*numbered(100), 4, seed=1, classes="abc"):
        for x, y in ((shard.x_train, shard.y_train), (shard.x_test, shard.y_test)):
            np.testing.assert_array_equal(x[:, 0] % 3, y)
        assert shard.classes == ("a", "b", "c")


@pytest.mark.parametrize(("share", "tests"), [(0.2, 5), (0.4, 10)])
def test_test_share_is_held_out(share, tests):
    for shard in deal(*numbered(100), 4, seed=1, classes="abc", test_share=share):
        assert (len(shard.y_train), len(shard.y_test)) == (25 - tests, tests)


def test_dealing_depends_on_the_seed_only():
    first, again, other = (
        [shard.x_train.tolist() for shard in deal(*numbered(60), 3, seed=seed, classes="abc")] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_dealt_examples_are_mixed():
    shards = deal(*numbered(90), 3, seed=1, classes="abc")
    assert all(shard.x_train.min() < 30 and shard.x_train.max() >= 60 for shard in shards)


@pytest.mark.parametrize(("examples", "clients"), [(5, 5), (3, 4), (20, 10)])
def test_too_few_examples_are_refused(examples, clients):
    with pytest.raises(DataError, match=f"{examples} examples are too few for {clients} clients"):
        deal(*numbered(examples), clients, seed=1, classes="abc")


def test_digits_are_those_of_scikit_learn():
    original = pytest.importorskip("sklearn.datasets").load_digits()
    from fedn_partial.datasets import digits

    x, y = digits.load()
    assert (x.shape, x.dtype) == ((1797, 32, 32, 3), np.uint8)
    assert (y.shape, y.dtype) == ((1797,), np.int32)
    np.testing.assert_array_equal(y, original.target)
    # Each of the 8x8 pixels is a square of 4x4 equal ones in all three colours; 0 to 16 became 0 to 255.
    squares = x.reshape(1797, 8, 4, 8, 4, 3)
    assert (squares == squares[:, :, :1, :, :1, :1]).all()
    assert (x.min(), x.max()) == (0, 255)
    np.testing.assert_array_equal(np.rint(squares[:, :, 0, :, 0, 0] * (16 / 255)), original.images)


def test_digits_are_dealt_to_the_clients_of_a_case():
    pytest.importorskip("sklearn")
    source, shards = deal_case(Data(name="digits", clients=3), seed=1)
    assert "digits" in source
    assert [len(shard.y_train) + len(shard.y_test) for shard in shards] == [599, 599, 599]
    assert shards[0].classes == tuple("0123456789")
    labels = np.concatenate([part for shard in shards for part in (shard.y_train, shard.y_test)])
    # Of the classes 0 to 9, as the data set's own description counts them.
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_unknown_data_set_is_refused_with_what_is_allowed():
    with pytest.raises(DataError, match=r"'mnist' .*Allowed are: digits"):
        deal_case(Data(name="mnist"), seed=1)
