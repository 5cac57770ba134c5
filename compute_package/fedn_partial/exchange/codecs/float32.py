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
        return np.ascontiguousarray(values, self.dtype)

    def decode(self, data, shape):
        if len(data) != self.max_bytes(shape):
            raise ValueError(f"has {len(data)} bytes for a kernel of shape {shape}, expected {self.max_bytes(shape)}")
        return np.frombuffer(data, self.dtype).reshape(shape).astype(np.float32, copy=False)

    def max_bytes(self, shape):
        return self.dtype.itemsize * math.prod(shape)
