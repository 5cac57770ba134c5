"""Merge rule median."""

from __future__ import annotations

import numpy as np

from .stacked import Stacked


class Median(Stacked):
    """Median of each entry (Yin et al. 2018).

    It tolerates wrong clients if they are fewer than half of those that sent a layer. The median of one or two clients
    is their mean, without protection.
    """

    def centre(self, values):
        return np.median(values.astype(np.float64), axis=0)
