"""Encoding of text: a vocabulary fitted on training text, and padding to the input length of the model.

The vocabulary is a text file with one word per line, numbered from 0. It is part of the shard, so that a device can
encode new text:
``encode(["what a film"], read_vocabulary("shard/vocabulary.txt"))``.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fedn_partial.errors import DataError

SIZE = 20_000  # including padding and unknown words (Alawadi et al. 2023, Table 2)
LENGTH = 100  # words of a review
FILE = "vocabulary.txt"
PADDING, UNKNOWN = 0, 1
_RESERVED = ("<padding>", "<unknown>")

_BREAK = re.compile(r"<br\s*/?>")
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


def split(text: str) -> list[str]:
    """Return the words of a text: lower-case letters and digits, apostrophes within a word, no markup."""
    return _WORD.findall(_BREAK.sub(" ", text.lower()))


def fit(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the vocabulary of training texts: the `SIZE` - 2 most frequent words, ties in alphabetical order."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split(text))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return with_reserved(word for word, _ in ranked)


def with_reserved(ranked: Iterable[str]) -> tuple[str, ...]:
    """Return the vocabulary of words sorted by descending frequency."""
    return (*_RESERVED, *itertools.islice(ranked, SIZE - len(_RESERVED)))


def encode(texts: Iterable[str], vocabulary: tuple[str, ...]) -> np.ndarray:
    """Return texts as word numbers, (texts, LENGTH) int32."""
    numbers = {word: number for number, word in enumerate(vocabulary) if number > UNKNOWN}
    return pad([numbers.get(word, UNKNOWN) for word in split(text)[-LENGTH:]] for text in texts)


def pad(rows: Iterable[list[int]]) -> np.ndarray:
    """Return lists of word numbers as (rows, LENGTH) int32: the last `LENGTH` of each, left-padded.

    This is the default of Keras' pad_sequences: a review's verdict is mostly at its end.
    """
    rows = list(rows)
    padded = np.full((len(rows), LENGTH), PADDING, np.int32)
    for number, row in enumerate(rows):
        last = row[-LENGTH:]
        padded[number, LENGTH - len(last) :] = last
    return padded


def to_text(vocabulary: tuple[str, ...]) -> str:
    """Return the content of a vocabulary's file."""
    return "\n".join(vocabulary) + "\n"


def read_vocabulary(path: str | Path) -> tuple[str, ...]:
    """Read a vocabulary from its file.

    Raises
    ------
    DataError : the file is missing or not a vocabulary.
    """
    try:
        vocabulary = tuple(Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a vocabulary: {error}") from None
    if vocabulary[:2] != _RESERVED:
        raise DataError(
            f"{path} is not a vocabulary: its first lines must be {' and '.join(_RESERVED)}, then one word each"
        )
    return vocabulary
