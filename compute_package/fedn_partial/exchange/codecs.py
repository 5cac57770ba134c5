"""Custom codecs: how the kernels of an update travel, in a class of the user's own.

A kernel is a tensor with more than one dimension; the others always travel as they are. Both ends run the codec, the
device and FEDn's hooks process, so its module imports NumPy and the standard library only, and its base as
``from fedn_partial.exchange.codecs import Codec``.
"""

from __future__ import annotations

import math


class Codec:
    """Base of custom codecs.

    What ``decode`` does not give back of a change stays on the device and is added to the next one (error feedback).
    """

    def encode(self, change):
        """Return the bytes that stand for `change`, a read-only float32 array: new weights less those of the round."""
        raise NotImplementedError

    def decode(self, data, shape):
        """Return the float32 array of `shape` that `data` (bytes) stands for; raise ValueError if it cannot be."""
        raise NotImplementedError

    def max_bytes(self, shape):
        """Return how many bytes a kernel of `shape` takes at most, which a device's upload limit goes by."""
        return 4 * math.prod(shape)


def pack(data):
    """Return the bytes of a kernel, after their number."""
    return len(data).to_bytes(4, "little") + data


def unpack(coded, start):
    """Return the bytes of the kernel that begins at `start` of a uint8 array, and where the next one begins."""
    first = start + 4
    end = first + int.from_bytes(coded[start:first].tobytes(), "little")
    if end > coded.size:
        raise ValueError("has kernels that are truncated")
    return coded[first:end].tobytes(), end
