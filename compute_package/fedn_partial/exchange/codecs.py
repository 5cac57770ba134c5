"""Base class of custom codecs, which encode the kernels of an update.

A kernel is a tensor with more than one dimension; other tensors are always sent as float32. A codec runs on the device
and in FEDn's hooks process, so its module may import only NumPy, the standard library, and its base with
``from fedn_partial.exchange.codecs import Codec``.
"""

from __future__ import annotations

import math


class Codec:
    """Base of custom codecs.

    The part of a change that ``decode`` does not restore stays on the device and is added to the next change (error
    feedback).
    """

    def encode(self, change):
        """Return `change` encoded as bytes; a read-only float32 array: trained weights minus global weights."""
        raise NotImplementedError

    def decode(self, data, shape):
        """Return the float32 array of `shape` encoded in `data` (bytes); raise ValueError if it is invalid."""
        raise NotImplementedError

    def max_bytes(self, shape):
        """Return the maximum number of encoded bytes of a kernel of `shape`, for the device's upload limit."""
        return 4 * math.prod(shape)


def pack(data):
    """Return the bytes of a kernel, prefixed with their length."""
    return len(data).to_bytes(4, "little") + data


def unpack(coded, start):
    """Return the bytes of the kernel at offset `start` of a uint8 array, and the offset of the next one."""
    first = start + 4
    end = first + int.from_bytes(coded[start:first].tobytes(), "little")
    if end > coded.size:
        raise ValueError("has truncated kernels")
    return coded[first:end].tobytes(), end
