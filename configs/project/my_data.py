"""Reader of Fashion-MNIST (Xiao et al. 2017): 70,000 grey images of 28x28, ten classes of clothes."""

import gzip
from pathlib import Path

import numpy as np

from fedn_partial.client.data.data_set import DataSet, Examples
from fedn_partial.errors import DataError

FOLDER = Path("/usr/share/datasets/fashion-mnist")  # installed by Debian's package dataset-fashion-mnist
CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")


def fashion_mnist(folder: Path = FOLDER) -> DataSet:
    """Return images (n, 28, 28, 1) uint8 and classes (n,) int32 from `folder`, which --source overrides."""
    return DataSet(f"Fashion-MNIST, from {folder}", CLASSES, read_part(folder, "train"), read_part(folder, "t10k"))


def read_part(folder: Path, part: str) -> Examples:
    """Read images and labels in MNIST's idx format: a header of 16 or 8 bytes, then one byte per value."""
    images = read_bytes(folder / f"{part}-images-idx3-ubyte.gz", header=16)
    labels = read_bytes(folder / f"{part}-labels-idx1-ubyte.gz", header=8)
    return Examples(images.reshape(-1, 28, 28, 1), labels.astype(np.int32))


def read_bytes(path: Path, header: int) -> np.ndarray:
    """Return the values of an idx file."""
    try:
        with gzip.open(path) as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing: apt install dataset-fashion-mnist, or name its folder with --source"
        ) from None
