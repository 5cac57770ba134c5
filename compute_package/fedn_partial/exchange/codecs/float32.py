"""Codec float32, the default: exact."""

from __future__ import annotations

import math

import numpy as np

from .base import Codec


class Float32(Codec):
    """The trained weights, unchanged."""

    encodes_changes = False
    fixed_size = True
    dtype = np.dtype("<f4")

    def encode(self, values):
        return values.astype(self.dtype, copy=False)

    def decode(self, data, shape):
        return np.frombuffer(data, self.dtype).reshape(shape).astype(np.float32, copy=False)

    def max_bytes(self, shape):
        return self.dtype.itemsize * math.prod(shape)
