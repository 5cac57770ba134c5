"""The Large Movie Review Dataset (Maas et al. 2011): 25,000 training and 25,000 test reviews, half of them positive.

Read from the folders of ``aclImdb``, or from Keras' ``imdb.npz`` of word ranks.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np

from fedn_partial.client.data import files
from fedn_partial.client.data.data_set import DataSet, Examples
from fedn_partial.client.data.download import Archive
from fedn_partial.data import vocabulary
from fedn_partial.data.shard import sha256
from fedn_partial.errors import DataError

CLASSES = ("negative", "positive")
ARCHIVE = Archive(
    "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
    "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
    ("aclImdb/train/pos/", "aclImdb/train/neg/", "aclImdb/test/pos/", "aclImdb/test/neg/"),
)
FOLDERS = ("neg", "pos")  # in the order of CLASSES
NPZ = "imdb.npz"
WORD_INDEX = "imdb_word_index.json"  # Keras' words for the numbers in imdb.npz


def read(folder: Path) -> DataSet:
    """Return reviews as word numbers (n, 100) int32, and classes (n,) int32: 0 negative, 1 positive.

    Raises
    ------
    DataError : files are missing, damaged or not this data set's.
    """
    home = files.find_folder(folder, ("aclImdb",), ("train/pos", "train/neg"))
    if home is not None:
        return _read_folders(home)
    if (folder / NPZ).exists():
        return _read_npz(folder / NPZ)
    raise DataError(f"no IMDB reviews in {folder}: expected train/pos/ (also below aclImdb/) or {NPZ}")


def _read_folders(home: Path) -> DataSet:
    texts, labels, checksums = {}, {}, {}
    for part in ("train", "test"):
        texts[part] = []
        for name in FOLDERS:
            reviews, checksums[f"{part}/{name}/*.txt"] = _read_reviews(home / part / name)
            texts[part].append(reviews)
        sizes = [len(reviews) for reviews in texts[part]]
        if sizes[0] != sizes[1]:
            raise DataError(
                f"reviews are missing in {home / part}: {sizes[0]} in neg and {sizes[1]} in pos, expected equal numbers"
            )
        labels[part] = np.repeat(np.arange(2, dtype=np.int32), sizes)
        texts[part] = [text for reviews in texts[part] for text in reviews]
    words = vocabulary.fit(texts["train"])
    return DataSet(
        "Large Movie Review Dataset, aclImdb; vocabulary of all its training reviews",
        CLASSES,
        *(Examples(vocabulary.encode(texts[part], words), labels[part]) for part in ("train", "test")),
        checksums,
        texts={vocabulary.FILE: vocabulary.to_text(words)},
    )


def _read_reviews(folder: Path) -> tuple[list[str], str]:
    """Return the reviews of the files ID_RATING.txt in the order of their IDs, and the SHA-256 of all contents."""
    paths = {}
    for path in files.glob(folder, "*_*.txt"):
        number = path.name.partition("_")[0]
        if number.isdecimal():
            if int(number) in paths:
                raise DataError(f"{folder}: duplicate review {number}: {paths[int(number)].name} and {path.name}")
            paths[int(number)] = path
    if not paths:
        raise DataError(f"no reviews in {folder}: expected files ID_RATING.txt")
    texts, digest = [], hashlib.sha256()
    for number in range(max(paths) + 1):
        if number not in paths:
            raise DataError(f"{folder}: review {number}_*.txt is missing; expected all IDs to {max(paths)}")
        content = paths[number].read_bytes()
        digest.update(content)
        if not content.strip():
            raise DataError(f"{paths[number]} is empty; expected a review")
        try:
            texts.append(content.decode())
        except UnicodeDecodeError as error:
            raise DataError(f"{paths[number]} is damaged: {error}; expected UTF-8 text") from None
    return texts, digest.hexdigest()


def _read_npz(path: Path) -> DataSet:
    """Read Keras' file of word ranks from 1, by frequency in all reviews; in shards 0 is padding and 1 unknown."""
    parts = []
    for part in ("train", "test"):
        rows, y = (_read_array(path, f"{letter}_{part}") for letter in "xy")
        y = files.flat_labels(y, len(CLASSES), path, f"y_{part}")
        if rows.shape != y.shape or len(y) == 0 or not all(isinstance(row, list) for row in rows):
            raise DataError(f"{path}: x_{part} must be lists of numbers, and y_{part} as many zeros and ones")
        parts.append(Examples(vocabulary.pad(_word_numbers(row, path, f"x_{part}") for row in rows), y))
    index = path.with_name(WORD_INDEX)
    texts, checksums = {}, {path.name: sha256(path)}
    source = "Large Movie Review Dataset, imdb.npz of Keras"
    if index.exists():
        texts[vocabulary.FILE] = vocabulary.to_text(_keras_vocabulary(index))
        checksums[index.name] = sha256(index)
    else:
        source += f"; no vocabulary, as {WORD_INDEX} was not beside it"
    return DataSet(source, CLASSES, *parts, checksums, texts=texts)


def _word_numbers(ranks: list, path: Path, name: str) -> list[int]:
    """Return a review's word numbers from the ranks in Keras' file."""
    array = np.asarray(ranks or [1])
    if array.dtype.kind not in "iu" or array.ndim != 1 or array.min() < 1:
        wrong = next((rank for rank in ranks if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1), ranks)
        raise DataError(f"{path}: {name} contains {wrong!r}; expected ranks of words, integers from 1")
    return np.where(array < vocabulary.SIZE - 1, array + 1, vocabulary.UNKNOWN)[: len(ranks)].tolist()


def _read_array(path: Path, name: str) -> np.ndarray:
    """Return an array of an npz file; object arrays are unpickled without running code."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = read_header[version](file)
            content = file.read()
            if not dtype.hasobject:
                return np.frombuffer(content, dtype).reshape(shape)
    except Exception as error:  # zipfile, zlib and numpy raise many kinds for a damaged file
        raise DataError(f"{path}: {name}: {error}; expected arrays x_train, y_train, x_test and y_test") from None
    return np.asarray(files.unpickle(content, path), object).reshape(shape)


def _keras_vocabulary(path: Path) -> tuple[str, ...]:
    try:
        ranks = json.loads(path.read_text(encoding="utf-8"))
        by_rank = {rank: word for word, rank in ranks.items()}
        return vocabulary.with_reserved(by_rank[rank] for rank in range(1, len(by_rank) + 1))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{path}: {error!r}; expected {{word: rank}} with ranks from 1") from None
