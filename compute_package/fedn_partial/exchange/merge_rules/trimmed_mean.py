"""Merge rule trimmed_mean."""

from __future__ import annotations

import numpy as np

from .stacked import Stacked


class TrimmedMean(Stacked):
    """Mean without the largest and the smallest values of each entry (Yin et al. 2018).

    At each end, the share `trim` of the m_l values is cut (rounded down), and at least one value of three or more. So
    one wrong client of three is tolerated, and two of ten. With one or two clients nothing is cut, and the centre is
    their mean, without protection.
    """

    def centre(self, values):
        clients = len(values)
        cut = max(int(self.settings["client"]["trim"] * clients), 1) if clients >= 3 else 0
        return np.sort(values, axis=0)[cut : clients - cut].mean(axis=0, dtype=np.float64)
