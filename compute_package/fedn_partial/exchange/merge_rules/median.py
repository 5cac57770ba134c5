"""Merge rule median."""

from __future__ import annotations

import numpy as np

from .stacked import Stacked


class Median(Stacked):
    """Median of each entry (Yin et al. 2018).

    It bears wrong clients as long as they are less than half of those that sent a layer. Of two clients it is the mean,
    of one its values: then a wrong client is not borne.
    """

    def centre(self, values):
        return np.median(values.astype(np.float64), axis=0)
