"""Codec int8: about a fifth of the bytes, with error feedback."""

from __future__ import annotations

import math
import zlib

import numpy as np

from .base import Codec

LEVELS = np.float32(127)


class Int8(Codec):
    """The change as multiples of a step: 1/127 of the largest change of each output channel (the last axis).

    The data are the float32 steps of all channels, and the deflated int8 multiples.
    """

    def encode(self, values):
        step = np.abs(values).max(axis=tuple(range(values.ndim - 1))) / LEVELS
        step[step < np.finfo(np.float32).tiny] = 1  # no change in this channel
        multiples = values / step
        multiples = np.rint(multiples, out=multiples).astype(np.int8)
        deflate = zlib.compressobj(strategy=zlib.Z_RLE)  # as small as the default strategy here, and faster
        return b"".join([step.astype("<f4").data, deflate.compress(multiples.data), deflate.flush()])

    def decode(self, data, shape):
        size, start = math.prod(shape), 4 * shape[-1]
        if len(data) < start:
            raise ValueError(f"{len(data)} bytes, expected {start} of steps")
        step = np.frombuffer(data[:start], "<f4")
        if not np.isfinite(step).all():
            raise ValueError("steps that are not finite")
        inflate = zlib.decompressobj()
        try:  # one value more than expected is enough to show that there are too many
            multiples = inflate.decompress(data[start:], size + 1)
        except zlib.error as error:
            raise ValueError(f"cannot be inflated: {error}") from None
        if len(multiples) != size:
            raise ValueError(f"{len(multiples)} values{' or more' * (len(multiples) > size)}, expected {size}")
        if not inflate.eof:
            raise ValueError("the deflated values have no end")
        if inflate.unused_data:
            raise ValueError(f"{len(inflate.unused_data)} bytes after the deflated values")
        return np.frombuffer(multiples, np.int8).astype(np.float32).reshape(shape) * step

    def max_bytes(self, shape):
        size = math.prod(shape)
        return 4 * shape[-1] + size + size // 1000 + 64  # what deflate adds at most
