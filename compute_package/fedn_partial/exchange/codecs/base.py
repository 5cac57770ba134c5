"""Base class of codecs, which encode the kernels of an update.

A kernel is a tensor with more than one dimension. The other tensors (biases, BatchNormalization) are always sent as
float32: they are 0.1 % of the bytes and sensitive to quantisation. A codec runs on the device and in FEDn's hooks
process, so the module of a custom codec may import only NumPy, the standard library, and its base with
``from fedn_partial.exchange.codecs import Codec``.
"""

from __future__ import annotations

import math

LENGTH = 4  # bytes of the length before the data of a kernel


class Codec:
    """Base of all codecs.

    Attributes
    ----------
    encodes_changes : whether ``encode`` receives trained weights minus global weights, and ``decode`` restores this
        change; the part of it that is lost stays on the device and is added to the next change (error feedback, Seide
        et al. 2014; Karimireddy et al. 2019). Else both handle the trained weights themselves.
    fixed_size : whether encoded kernels always have ``max_bytes``, so that they need not be collected in memory.
    """

    encodes_changes = True
    fixed_size = False

    def encode(self, values):
        """Return `values`, a contiguous read-only float32 array, encoded as bytes or an array."""
        raise NotImplementedError

    def decode(self, data, shape):
        """Return the float32 array of `shape` encoded in `data`.

        Parameters
        ----------
        data : read-only memoryview of at most ``max_bytes`` bytes (exactly as many, if ``fixed_size``).

        Raises
        ------
        ValueError : `data` are invalid; the message is the reason.
        """
        raise NotImplementedError

    def max_bytes(self, shape):
        """Return the maximum number of encoded bytes of a kernel of `shape`."""
        return 4 * math.prod(shape)


def is_kernel(shape):
    """Return whether the codec encodes tensors of `shape`."""
    return len(shape) > 1


def prefix(data):
    """Return the length of a kernel's `data`, as bytes before them."""
    return len(data).to_bytes(LENGTH, "little")


def unpack(coded, start):
    """Return the bytes of the kernel at offset `start` of the memoryview `coded`, and the offset of the next one."""
    first = start + LENGTH
    end = first + int.from_bytes(coded[start:first], "little")
    if end > len(coded):
        raise ValueError(f"truncated, ends at byte {end} of {len(coded)}")
    return coded[first:end], end
