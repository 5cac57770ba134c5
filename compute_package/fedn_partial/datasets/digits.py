"""The 1,797 scanned handwritten digits that scikit-learn ships (UCI Optical Recognition of Handwritten Digits).

8x8 grey images with 17 levels, brought to the 32x32x3 that VGG16 wants.
"""

from __future__ import annotations

import numpy as np

SOURCE = "scikit-learn digits (UCI Optical Recognition of Handwritten Digits, test part)"
CLASSES = tuple("0123456789")


def load() -> tuple[np.ndarray, np.ndarray]:
    """Return images (1797, 32, 32, 3) uint8 and classes (1797,) int32.

    Raises
    ------
    ModuleNotFoundError : scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(np.repeat(grey, 4, axis=1), 4, axis=2)
    return np.repeat(images[..., np.newaxis], 3, axis=3), digits.target.astype(np.int32)
