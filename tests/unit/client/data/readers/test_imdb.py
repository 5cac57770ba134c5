"""Reader of IMDB, with small files in the official formats."""

import hashlib
import json

import numpy as np
import pytest

from fedn_partial.client.data.data_sets import load, partition_case
from fedn_partial.client.data.readers import imdb
from fedn_partial.data import vocabulary
from fedn_partial.data.shard import write_shard
from fedn_partial.errors import DataError
from fedn_partial.settings.case import Data

REVIEWS = {
    "train/neg": ["Bad, bad film.", "A bad plot<br /><br />and bad actors"],
    "train/pos": ["Good film!", "It's a GOOD plot"],
    "test/neg": ["bad surprise"],
    "test/pos": ["surprise: good"],
}


def write_folders(home):
    for folder, texts in REVIEWS.items():
        (home / folder).mkdir(parents=True)
        for number, text in enumerate(texts):
            (home / folder / f"{number}_7.txt").write_text(text)
    (home / "train" / "unsup").mkdir()
    (home / "train" / "unsup" / "0_0.txt").write_text("unlabelled")
    return home


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It's GREAT -- 10/10!", ["it's", "great", "10", "10"]),
        ("one<br />two<br/>three<br>four", ["one", "two", "three", "four"]),
        ("'quoted' well-made under_score", ["quoted", "well", "made", "under", "score"]),
        ("Amélie, naïve", ["amélie", "naïve"]),
        ("", []),
    ],
)
def test_words_of_a_text(text, found):
    assert vocabulary.split(text) == found


def test_vocabulary_is_by_frequency_then_alphabet(monkeypatch):
    texts = ["b b b a a", "c c d"]
    assert vocabulary.fit(texts) == ("<padding>", "<unknown>", "b", "a", "c", "d")
    monkeypatch.setattr(vocabulary, "SIZE", 4)
    assert vocabulary.fit(texts) == ("<padding>", "<unknown>", "b", "a")


def test_encoded_texts_are_the_last_words_with_padding_before():
    words = ("<padding>", "<unknown>", "b", "a")
    short, long, empty = vocabulary.encode(["a b x", " ".join(["b"] * 50 + ["a"] * 90), ""], words)
    assert short.dtype == np.int32
    assert short.tolist() == [0] * 97 + [3, 2, 1]
    assert long.tolist() == [2] * 10 + [3] * 90
    assert empty.tolist() == [0] * 100


def test_reviews_are_read_in_order_with_a_vocabulary_of_the_training_texts(tmp_path):
    write_folders(tmp_path / "aclImdb")
    whole = load("imdb", tmp_path)
    # bad 4, good 2, film 2, plot 2, a 2, actors 1, and 1, it's 1
    words = ["<padding>", "<unknown>", "bad", "a", "film", "good", "plot", "actors", "and", "it's"]
    assert whole.texts["vocabulary.txt"].splitlines() == words
    assert whole.classes == ("negative", "positive")
    assert whole.train.y.tolist() == [0, 0, 1, 1] and whole.test.y.tolist() == [0, 1]
    assert whole.train.x.shape == (4, 100) and whole.train.x.dtype == np.int32
    assert [row[row > 0].tolist() for row in whole.train.x] == [
        [2, 2, 4],
        [3, 2, 6, 8, 2, 7],
        [5, 4],
        [9, 3, 5, 6],
    ]
    assert [row[row > 0].tolist() for row in whole.test.x] == [[2, 1], [1, 5]]  # "surprise" is in test texts only
    texts = "".join(REVIEWS["train/neg"]).encode()
    assert whole.files["train/neg/*.txt"] == hashlib.sha256(texts).hexdigest()


def test_a_device_can_encode_new_text_with_its_shard(tmp_path):
    source, shards = partition_case(Data(name="imdb", clients=1), seed=1, source=write_folders(tmp_path / "x"))
    write_shard(tmp_path / "shard", shards[0], source)
    words = vocabulary.read_vocabulary(tmp_path / "shard" / "vocabulary.txt")
    assert vocabulary.encode(["A good, new film"], words)[0, -4:].tolist() == [3, 5, 1, 4]


def test_other_files_are_no_vocabulary(tmp_path):
    (tmp_path / "vocabulary.txt").write_text("one\ntwo\n")
    for name in ("vocabulary.txt", "none.txt"):
        with pytest.raises(DataError, match=f"{name} is not a vocabulary"):
            vocabulary.read_vocabulary(tmp_path / name)


def test_what_macos_puts_beside_the_reviews_is_left_alone(tmp_path):
    folder = write_folders(tmp_path / "aclImdb") / "train/neg"
    for name in ("._0_7.txt", "._1_7.txt"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    (tmp_path / "__MACOSX/aclImdb/train/pos").mkdir(parents=True)
    assert load("imdb", tmp_path).train.y.tolist() == [0, 0, 1, 1]


def test_missing_review_is_named(tmp_path):
    (write_folders(tmp_path) / "train/neg/0_7.txt").unlink()
    with pytest.raises(DataError, match=r"train/neg: review 0_\*.txt is missing; expected all IDs to 1"):
        load("imdb", tmp_path)


def test_review_that_is_there_twice_or_empty_is_named(tmp_path):
    folder = write_folders(tmp_path)
    (folder / "train/neg/1_9.txt").write_text("again")
    with pytest.raises(DataError, match=r"train/neg: duplicate review 1: 1_._?"):
        load("imdb", tmp_path)
    (folder / "train/neg/1_9.txt").unlink()
    (folder / "train/neg/1_7.txt").write_text(" ")
    with pytest.raises(DataError, match=r"train/neg/1_7\.txt is empty"):
        load("imdb", tmp_path)


def test_half_a_class_is_noticed(tmp_path):
    (write_folders(tmp_path) / "train/neg/1_7.txt").unlink()
    with pytest.raises(DataError, match=r"missing in .*train: 1 in neg and 2 in pos, expected equal numbers"):
        load("imdb", tmp_path)


def test_missing_folder_is_named(tmp_path):
    (write_folders(tmp_path) / "test/pos/0_7.txt").unlink()
    with pytest.raises(DataError, match=r"no reviews in .*test/pos: expected files ID_RATING.txt"):
        load("imdb", tmp_path)
    with pytest.raises(DataError, match=r"no IMDB reviews in .*: expected train/pos"):
        load("imdb", tmp_path / "test")


def test_review_that_is_no_text_is_named(tmp_path):
    (write_folders(tmp_path) / "train/pos/1_7.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"train/pos/1_7.txt is damaged.*expected UTF-8"):
        load("imdb", tmp_path)


def lists(*rows):
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


def write_keras(folder, **change):
    arrays = {
        "x_train": lists([1, 2, 3], [30_000, 1]),
        "y_train": np.array([1, 0]),
        "x_test": lists([19_998, 19_999], list(range(1, 200))),
        "y_test": np.array([0, 1]),
    }
    np.savez(folder / "imdb.npz", **(arrays | change))


def test_keras_file_is_read_with_its_own_ranks(tmp_path):
    write_keras(tmp_path)
    whole = load("imdb", tmp_path)
    # Rank r becomes r + 1; what is beyond 19,999 is unknown, 1.
    assert whole.train.x[:, -4:].tolist() == [[0, 2, 3, 4], [0, 0, 1, 2]]
    assert whole.test.x[0, -2:].tolist() == [19_999, 1]
    assert whole.test.x[1].tolist() == list(range(101, 201))
    assert whole.train.y.tolist() == [1, 0]
    assert whole.texts == {} and "no vocabulary" in whole.source


def test_an_empty_review_and_labels_in_a_column_are_read(tmp_path):
    write_keras(tmp_path, x_train=lists([], [1]), y_train=np.array([[1], [0]]))
    whole = load("imdb", tmp_path)
    assert whole.train.x[0].tolist() == [0] * 100 and whole.train.y.tolist() == [1, 0]


def test_keras_words_become_the_vocabulary(tmp_path):
    write_keras(tmp_path)
    (tmp_path / "imdb_word_index.json").write_text(json.dumps({"film": 3, "the": 1, "a": 2}))
    whole = load("imdb", tmp_path)
    words = whole.texts["vocabulary.txt"].splitlines()
    assert words == ["<padding>", "<unknown>", "the", "a", "film"]
    assert [words[number] for number in whole.train.x[0, -3:]] == ["the", "a", "film"]
    (tmp_path / "imdb_word_index.json").write_text(json.dumps({"film": 3, "the": 1}))
    with pytest.raises(DataError, match=r"imdb_word_index.json.*expected {word: rank}"):
        load("imdb", tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"y_train": np.array([1])}, "x_train must be lists of numbers, and y_train as many zeros and ones"),
        ({"y_test": np.array([0, 2])}, "y_test must be integers from 0 to 1"),
        ({"y_test": np.eye(2, dtype=int)}, r"y_test are int64 \(2, 2\), expected integers .*argmax"),
        ({"x_train": lists([1, 2], [3, -7])}, "x_train contains -7; expected ranks of words, .* from 1"),
        ({"x_train": lists([1, 2], [0, 3])}, "x_train contains 0"),
        ({"x_test": lists([1.5], [2])}, "x_test contains 1.5"),
        ({"x_test": lists(["good"], [2])}, "x_test contains 'good'"),
        ({"x_test": lists([10**30], [2])}, "x_test contains"),
        ({"x_train": np.zeros((2, 5))}, "x_train must be lists"),
        ({"x_test": lists([1], pytest.approx)}, "not read"),
    ],
)
def test_keras_file_of_something_else_is_refused(tmp_path, change, told):
    write_keras(tmp_path, **change)
    with pytest.raises(DataError, match=rf"imdb.npz.*{told}"):
        load("imdb", tmp_path)


def test_truncated_keras_file_is_named(tmp_path):
    write_keras(tmp_path)
    path = tmp_path / "imdb.npz"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"imdb.npz: x_train.*expected arrays"):
        load("imdb", tmp_path)


def test_numbers_fit_the_case_of_the_paper():
    from fedn_partial.models.text_cnn import Options

    assert (vocabulary.SIZE, vocabulary.LENGTH, len(imdb.CLASSES)) == (Options().vocabulary, Options().length, 2)
