"""A data set: a function that returns a DataSet. It runs on the operator's machine only."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from fedn_partial.client.data.data_set import DataSet, Examples


def small_digits(folder: Path | None = None) -> DataSet:
    """Return the 8x8 digits of scikit-learn. `folder` is the value of --source, for data sets with files."""
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # features: float32, words: int32
    examples = Examples(images[..., np.newaxis], digits.target.astype(np.int32))
    return DataSet("scikit-learn digits, 8x8", tuple("0123456789"), train=examples, test=None)
