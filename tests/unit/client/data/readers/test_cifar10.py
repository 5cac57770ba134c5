"""Reader of CIFAR-10, with small files in each official format, and damaged ones."""

import hashlib
import io
import os
import pickle
import tarfile

import numpy as np
import pytest

from fedn_partial.client.data.data_sets import load, partition_case
from fedn_partial.client.data.readers import cifar10
from fedn_partial.errors import DataError
from fedn_partial.settings.case import Data

NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
IMAGES = 4  # a file


def original(number):
    """Images and labels of the file with this number, made pixel by pixel from the format's description."""
    random = np.random.default_rng(number)
    return random.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8), random.integers(0, 10, IMAGES)


def rows(images):
    """For each image 1,024 red values row by row, then green, then blue."""
    return np.array([[image[i, j, c] for c in range(3) for i in range(32) for j in range(32)] for image in images])


def write_python(folder):
    folder.mkdir()
    for number, name in enumerate(NAMES):
        images, labels = original(number)
        batch = {b"batch_label": b"training", b"labels": labels.tolist(), b"data": rows(images).astype(np.uint8)}
        (folder / name).write_bytes(pickle.dumps(batch | {b"filenames": [b"x.png"] * IMAGES}, protocol=2))
    return folder


def write_keras_cache(folder):
    """As keras.datasets.cifar10 of Keras 3.15 leaves it below ~/.keras/datasets, with labels of shape (n, 1)."""
    (folder / "cifar-10-batches-py-target").mkdir(parents=True)
    inner = write_python(folder / "cifar-10-batches-py-target/cifar-10-batches-py")
    (folder / "cifar-10-batches-py-target_archive").write_bytes(b"the archive itself")
    return inner


def write_binary(folder):
    folder.mkdir()
    for number, name in enumerate(NAMES):
        images, labels = original(number)
        records = (bytes([label, *row]) for label, row in zip(labels, rows(images), strict=True))
        (folder / f"{name}.bin").write_bytes(b"".join(records))
    return folder


def write_keras(folder):
    folder.mkdir()
    train = [original(number) for number in range(5)]
    np.savez(
        folder / "cifar10.npz",
        x_train=np.concatenate([images for images, _ in train]),
        y_train=np.concatenate([labels for _, labels in train]).astype(np.uint8).reshape(-1, 1),
        x_test=original(5)[0],
        y_test=original(5)[1].reshape(-1, 1),
    )
    return folder


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_python, "cifar-10-batches-py"),
        (write_python, "elsewhere"),
        (write_binary, "cifar-10-batches-bin"),
        (write_binary, "elsewhere"),
        (write_keras, "elsewhere"),
    ],
)
def test_images_are_those_of_the_files(tmp_path, write, name):
    folder = write(tmp_path / name)
    whole = load("cifar10", folder if name == "elsewhere" else tmp_path)
    for part, numbers in ((whole.train, range(5)), (whole.test, [5])):
        originals = [original(number) for number in numbers]
        np.testing.assert_array_equal(part.x, np.concatenate([images for images, _ in originals]))
        np.testing.assert_array_equal(part.y, np.concatenate([labels for _, labels in originals]))
        assert (part.x.dtype, part.y.dtype) == (np.uint8, np.int32)
    assert whole.files == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_cache_of_keras_is_read(tmp_path):
    folder = write_keras_cache(tmp_path / ".keras/datasets")
    for source in (tmp_path / ".keras/datasets", folder.parent, folder):
        assert load("cifar10", source).train.x.shape == (5 * IMAGES, 32, 32, 3)


def test_what_macos_puts_beside_the_files_is_left_alone(tmp_path):
    folder = write_python(tmp_path / "cifar-10-batches-py")
    (tmp_path / "__MACOSX/cifar-10-batches-py").mkdir(parents=True)
    for name in NAMES:
        (folder / f"._{name}").write_bytes(b"\0\5\x16\7")
    assert len(load("cifar10", tmp_path).files) == 6


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_labels_may_stand_in_a_column(tmp_path, shape):
    folder = write_python(tmp_path / "c")
    images, labels = original(0)
    batch = {b"labels": labels.reshape(shape), b"data": rows(images).astype(np.uint8)}
    (folder / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=2))
    assert load("cifar10", folder).train.y[:IMAGES].tolist() == labels.tolist()


def test_one_hot_labels_are_named(tmp_path):
    folder = write_keras(tmp_path / "k")
    with np.load(folder / "cifar10.npz") as arrays:
        changed = {**arrays, "y_train": np.eye(10, dtype=np.uint8)[arrays["y_train"].reshape(-1)]}
    np.savez(folder / "cifar10.npz", **changed)
    with pytest.raises(DataError, match=r"y_train are uint8 \(20, 10\), expected integers .*argmax"):
        load("cifar10", folder)


def test_missing_file_is_named_with_what_was_expected(tmp_path):
    (write_python(tmp_path / "c") / "data_batch_3").unlink()
    with pytest.raises(DataError, match=r"c/data_batch_3 is missing; expected the 6 files data_batch_1, .*test_batch"):
        load("cifar10", tmp_path / "c")


def test_folder_without_the_files_is_named_with_what_was_expected(tmp_path):
    with pytest.raises(DataError, match=rf"no CIFAR-10 in {tmp_path}: expected data_batch_1"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("keep", [0, 100, 12_000, -1])
def test_truncated_pickle_is_named(tmp_path, keep):
    path = write_python(tmp_path / "c") / "data_batch_2"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"data_batch_2 is truncated or damaged"):
        load("cifar10", tmp_path / "c")


def test_truncated_records_are_named(tmp_path):
    path = write_binary(tmp_path / "c") / "test_batch.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"test_batch.bin is truncated.*12291 bytes, expected a multiple of 3073"):
        load("cifar10", tmp_path / "c")
    path.write_bytes(content[: 3 * 3073])
    with pytest.raises(DataError, match=r"test_batch.bin has 3 images, expected 4 as in the other files"):
        load("cifar10", tmp_path / "c")


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ([1, 2], "expected a pickled dictionary with data and labels"),
        ({b"data": np.zeros((2, 3072), np.uint8)}, "expected a pickled dictionary with data and labels"),
        ({b"data": np.zeros((2, 3071), np.uint8), b"labels": [1, 2]}, r"uint8 \(2, 3071\) for 2 labels"),
        ({b"data": np.zeros((2, 3072)), b"labels": [1, 2]}, "float64"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10]}, "integers from 0 to 9"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [[1], [1, 2]]}, "data and labels must be arrays"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": np.eye(2, 10)}, r"labels are float64 \(2, 10\)"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": 3}, r"labels are int64 \(\)"),
    ],
)
def test_pickle_of_something_else_is_refused(tmp_path, batch, told):
    path = write_python(tmp_path / "c") / "data_batch_1"
    path.write_bytes(pickle.dumps(batch))
    with pytest.raises(DataError, match=f"data_batch_1.*{told}"):
        load("cifar10", tmp_path / "c")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickle_that_would_run_code_is_not_read(tmp_path):
    path = write_python(tmp_path / "c") / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": Evil(str(tmp_path / "made")), b"labels": []}))
    with pytest.raises(DataError, match=r"data_batch_1: contains posix.mkdir, which the official file does not"):
        load("cifar10", tmp_path / "c")
    assert not (tmp_path / "made").exists()


def test_keras_arrays_of_another_shape_are_refused(tmp_path):
    y = np.zeros(2, np.uint8)
    np.savez(
        tmp_path / "cifar10.npz",
        **{"x_train": np.zeros((2, 3, 32, 32), np.uint8), "y_train": y, "x_test": y, "y_test": y},
    )
    with pytest.raises(DataError, match=r"x_train is uint8 \(2, 3, 32, 32\), expected uint8 \(2, 32, 32, 3\)"):
        load("cifar10", tmp_path)
    (tmp_path / "cifar10.npz").write_bytes(b"PK no archive")
    with pytest.raises(DataError, match=r"cifar10.npz.*expected arrays x_train"):
        load("cifar10", tmp_path)


def test_downloaded_archive_is_read_from_the_cache(tmp_path, monkeypatch):
    """With a file URL; test_download.py tests the network."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(write_python(tmp_path / "cifar-10-batches-py"), "cifar-10-batches-py")
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(packed.getvalue())
    checksum = hashlib.sha256(packed.getvalue()).hexdigest()
    monkeypatch.setattr(cifar10, "ARCHIVE", cifar10.Archive(path.as_uri(), checksum, cifar10.ARCHIVE.members))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, shards = partition_case(Data(name="cifar10", clients=2), seed=1)
    assert source == f"CIFAR-10, python version, from {path.as_uri()}"
    assert [len(shard.y_train) for shard in shards] == [10, 10]
