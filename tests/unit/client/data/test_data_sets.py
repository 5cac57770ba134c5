"""Shards on disk, partitions, and the digits compared with scikit-learn's."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from fedn_partial.client.data.data_set import DataSet, Examples
from fedn_partial.client.data.data_sets import load, partition_case
from fedn_partial.client.data.sharding import make_shards
from fedn_partial.data.shard import ARRAYS, Shard, open_shard, write_shard
from fedn_partial.errors import DataError
from fedn_partial.settings.case import Data
from fedn_partial.settings.schema import SettingsError


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
        "train_by_class": {"walk": 2, "sit": 2, "sleep": 2},
        "test": 2,
        "test_by_class": {"walk": 1, "sit": 0, "sleep": 1},
        "sha256": {
            f"{name}.npy": hashlib.sha256((tmp_path / f"{name}.npy").read_bytes()).hexdigest() for name in ARRAYS
        },
    }


def test_shard_described_by_its_classes_alone_is_opened(tmp_path, shard):
    write_shard(tmp_path, shard, "made here")
    (tmp_path / "shard.json").write_text('{"classes": ["walk", "sit", "sleep"]}')
    assert open_shard(tmp_path).classes == shard.classes


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


def test_labels_of_another_shape_are_refused(tmp_path, shard):
    write_shard(tmp_path, shard, "made here")
    np.save(tmp_path / "y_test.npy", np.array([[0], [1]], np.int32))
    with pytest.raises(DataError, match=r"y_test has shape \(2, 1\), expected one class number an example"):
        open_shard(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"y_train": np.zeros(5, np.int32)}, "x_train has 6 examples, y_train 5"),
        ({"x_test": np.zeros((3, 4, 4, 3), np.uint8)}, "x_test has 3 examples, y_test 2"),
        (
            {"x_test": np.zeros((0, 4, 4, 3), np.uint8), "y_test": np.zeros(0, np.int32)},
            "x_test has 0 examples, y_test 0",
        ),
        ({"y_test": np.array([3, 0], np.int32)}, "y_test has class 3, but shard.json has 3 classes"),
        ({"y_train": np.array([0, 1, 2, 0, 1, -1], np.int32)}, "y_train has class -1"),
        ({"x_train": np.zeros((6, 4, 4, 3), np.float64)}, "x_train is float64"),
        ({"y_test": np.zeros(2, np.int64)}, "y_test int64"),
        ({"x_test": np.full((2, 4, 4, 3), np.nan, np.float32)}, "x_test has values that are not finite"),
        ({"x_test": np.array([[3, 2], [1, -5]], np.int32)}, "x_test has word number -5; expected at least 0"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(tmp_path, shard, change, told):
    write_shard(tmp_path, dataclasses.replace(shard, **change), "made here")
    with pytest.raises(DataError) as error:
        open_shard(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert told in str(error.value)


def numbered(examples, owners=None):
    """Examples whose value is their number, with the class number % 3."""
    numbers = np.arange(examples)
    return Examples(numbers.reshape(-1, 1).astype(np.float32), (numbers % 3).astype(np.int32), owners)


def data_set(train, test=None, owners=()):
    return DataSet("made here", ("a", "b", "c"), train, test, {"file": "0123"}, tuple(owners), {"note.txt": "für alle"})


def held(shards, *names):
    """Return the sorted numbers of the examples of all shards."""
    return sorted(int(x[0]) for shard in shards for name in names for x in getattr(shard, name))


@pytest.mark.parametrize(("examples", "clients"), [(100, 1), (100, 4), (101, 4), (30, 10)])
def test_every_example_is_in_one_shard(examples, clients):
    shards = make_shards(data_set(numbered(examples)), Data(clients=clients), seed=1)
    assert len(shards) == clients
    assert held(shards, "x_train", "x_test") == list(range(examples))
    sizes = [len(shard.x_train) + len(shard.x_test) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("partition", ["iid", "dirichlet:0.5"])
def test_official_test_examples_stay_test_examples_and_go_to_all_in_equal_parts(partition):
    shards = make_shards(data_set(numbered(301), numbered(50)), Data(clients=4, partition=partition), seed=1)
    assert held(shards, "x_train") == list(range(301))
    assert held(shards, "x_test") == list(range(50))
    assert [len(shard.y_test) for shard in shards] == [13, 13, 12, 12]


@pytest.mark.parametrize("partition", ["iid", "dirichlet:0.5"])
def test_partitioned_examples_keep_their_class(partition):
    for shard in make_shards(data_set(numbered(300), numbered(50)), Data(clients=4, partition=partition), seed=1):
        for x, y in ((shard.x_train, shard.y_train), (shard.x_test, shard.y_test)):
            np.testing.assert_array_equal(x[:, 0] % 3, y)
        assert shard.classes == ("a", "b", "c")


def test_a_fifth_is_held_out_where_there_are_no_test_examples():
    for shard in make_shards(data_set(numbered(100)), Data(clients=4), seed=1):
        assert (len(shard.y_train), len(shard.y_test)) == (20, 5)


@pytest.mark.parametrize("partition", ["iid", "dirichlet:0.5"])
def test_the_partition_depends_on_the_seed_only(partition):
    first, again, other = (
        [
            (shard.x_train.tolist(), shard.x_test.tolist())
            for shard in make_shards(data_set(numbered(90), numbered(30)), Data(clients=3, partition=partition), seed)
        ]
        for seed in (1, 1, 2)
    )
    assert first == again
    assert all(one != two for one, two in zip(first, other, strict=True))


def test_partitioned_examples_are_mixed():
    shards = make_shards(data_set(numbered(90)), Data(), seed=1)
    assert all(shard.x_train.min() < 30 and shard.x_train.max() >= 60 for shard in shards)


def test_natural_gives_a_client_all_of_its_owners():
    owners = np.repeat([0, 1, 2, 3], [10, 40, 20, 25])
    tests = np.repeat([0, 1, 2, 3], [1, 4, 2, 3])
    whole = data_set(numbered(95, owners), numbered(10, tests), ["ann", "bob", "cyd", "dan"])
    shards = make_shards(whole, Data(clients=2, partition="natural"), seed=1)
    assert [shard.origin["owners"] for shard in shards] == [["ann", "bob"], ["cyd", "dan"]]
    assert held(shards[:1], "x_train") == list(range(50))
    assert held(shards[:1], "x_test") == list(range(5))
    assert held(shards[1:], "x_train") == list(range(50, 95))
    assert held(shards[1:], "x_test") == list(range(5, 10))


def test_fewer_examples_are_drawn_from_all_before_they_are_partitioned():
    whole = data_set(numbered(300), numbered(100))
    shards = make_shards(whole, Data(clients=2, examples=60, test_examples=20), seed=1)
    train, test = held(shards, "x_train"), held(shards, "x_test")
    assert (len(set(train)), len(set(test))) == (60, 20)
    assert train[0] < 60 and train[-1] > 240
    assert test[0] < 20 and test[-1] > 80
    # Each has random numbers of its own: fewer test examples move no training example.
    assert held(make_shards(whole, Data(clients=2, examples=60), seed=1), "x_train") == train


def test_a_shard_says_how_it_came_about(tmp_path):
    shard = make_shards(
        data_set(numbered(90), numbered(30)), Data(name="casa", clients=3, partition="dirichlet:0.5"), 7
    )[1]
    write_shard(tmp_path, shard, "made here")
    description = json.loads((tmp_path / "shard.json").read_text())
    expected = {"data_set": "casa", "files": {"file": "0123"}, "partition": "dirichlet:0.5", "seed": 7, "clients": 3}
    assert description.items() >= {**expected, "client": 2, "examples": 90, "test_examples": 30}.items()
    assert (tmp_path / "note.txt").read_bytes() == "für alle".encode()
    assert description["sha256"]["note.txt"] == hashlib.sha256("für alle".encode()).hexdigest()


@pytest.mark.parametrize(
    ("whole", "asked", "told"),
    [
        (
            data_set(numbered(5)),
            {"clients": 5},
            "5 training and 5 test examples are too few for 5 clients: client 1 would have 1 and 0",
        ),
        (data_set(numbered(3)), {"clients": 4}, "3 examples are too few for 4 clients"),
        (data_set(numbered(50), numbered(3)), {"clients": 4}, "3 examples are too few for 4 clients"),
        (data_set(numbered(50)), {"examples": 51}, "examples is 51, but the data set has 50"),
        (data_set(numbered(50), numbered(9)), {"test_examples": 10}, "test_examples is 10, but the data set has 9"),
        (data_set(numbered(50)), {"test_examples": 10}, "omit test_examples"),
        (
            data_set(numbered(50)),
            {"partition": "natural"},
            "no natural owners; partition may be iid or dirichlet:ALPHA",
        ),
        (
            data_set(numbered(50, np.zeros(50, int)), numbered(9, np.zeros(9, int)), ["ann"]),
            {"partition": "natural"},
            "3 clients are more than the 1 owners",
        ),
    ],
)
def test_what_cannot_be_partitioned_is_refused(whole, asked, told):
    with pytest.raises(DataError, match=told):
        make_shards(whole, Data(**asked), seed=1)


def test_digits_are_those_of_scikit_learn():
    original = pytest.importorskip("sklearn.datasets").load_digits()
    whole = load("digits")
    x, y = whole.train.x, whole.train.y
    assert whole.test is None
    assert (x.shape, x.dtype) == ((1797, 32, 32, 3), np.uint8)
    assert (y.shape, y.dtype) == ((1797,), np.int32)
    np.testing.assert_array_equal(y, original.target)
    # Each of the 8x8 pixels is a square of 4x4 equal ones in all three colours; 0 to 16 became 0 to 255.
    squares = x.reshape(1797, 8, 4, 8, 4, 3)
    assert (squares == squares[:, :, :1, :, :1, :1]).all()
    assert (x.min(), x.max()) == (0, 255)
    np.testing.assert_array_equal(np.rint(squares[:, :, 0, :, 0, 0] * (16 / 255)), original.images)


def test_digits_are_partitioned_across_the_clients_of_a_case():
    pytest.importorskip("sklearn")
    source, shards = partition_case(Data(name="digits", clients=3), seed=1)
    assert "digits" in source
    assert [len(shard.y_train) + len(shard.y_test) for shard in shards] == [599, 599, 599]
    assert shards[0].classes == tuple("0123456789")
    labels = np.concatenate([part for shard in shards for part in (shard.y_train, shard.y_test)])
    # Of the classes 0 to 9, as the data set's own description counts them.
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_unknown_data_set_is_refused_with_what_is_allowed():
    with pytest.raises(SettingsError, match=r"'mnist' .*Allowed are: digits"):
        Data(name="mnist")


def test_digits_are_of_no_folder(tmp_path):
    with pytest.raises(DataError, match="come with scikit-learn"):
        partition_case(Data(name="digits"), seed=1, source=tmp_path)


def test_digits_are_partitioned_as_before_there_were_other_data_sets():
    """The figures in the README and in the cases were measured on these shards."""
    original = pytest.importorskip("sklearn.datasets").load_digits()
    order = np.array_split(np.random.default_rng(1).permutation(1797), 3)
    _, shards = partition_case(Data(name="digits", clients=3), seed=1)
    for part, shard in zip(order, shards, strict=True):
        np.testing.assert_array_equal(shard.y_test, original.target[part[:120]])
        np.testing.assert_array_equal(shard.y_train, original.target[part[120:]])
