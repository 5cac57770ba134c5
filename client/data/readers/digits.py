"""The 1,797 handwritten digits of scikit-learn (UCI Optical Recognition of Handwritten Digits).

The 8x8 grey images with 17 levels are scaled to the 32x32x3 of VGG16's input.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedn_partial.client.data.data_set import DataSet, Examples
from fedn_partial.errors import DataError

SOURCE = "scikit-learn digits (UCI Optical Recognition of Handwritten Digits, test part)"
CLASSES = tuple("0123456789")
ARCHIVE = None  # nothing to download


def read(folder: Path | None) -> DataSet:
    """Return images (1797, 32, 32, 3) uint8 and classes (1797,) int32, without test examples.

    Raises
    ------
    DataError : scikit-learn is not installed, or `folder` is given.
    """
    if folder is not None:
        raise DataError(f"{folder}: the digits come with scikit-learn, not from a folder; omit --source")
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise DataError(f"digits needs {error.name}, which is missing: pip install 'fedn-partial[local]'") from None

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(np.repeat(grey, 4, axis=1), 4, axis=2)
    images = np.repeat(images[..., np.newaxis], 3, axis=3)
    return DataSet(SOURCE, CLASSES, Examples(images, digits.target.astype(np.int32)), None)
