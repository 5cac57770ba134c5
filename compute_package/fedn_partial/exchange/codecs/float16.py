"""Codec float16: half the bytes, 11 significant bits."""

from __future__ import annotations

import numpy as np

from .float32 import Float32


class Float16(Float32):
    """The trained weights, rounded to float16."""

    dtype = np.dtype("<f2")
