"""BatchNormalization's moving statistics."""

from __future__ import annotations

import numpy as np


def second_moment(variance, mean):
    """Return E[x^2] = variance + mean^2 as float64."""
    return variance.astype(np.float64) + np.square(mean, dtype=np.float64)


def statistics(variances):
    """Return the indices of all moving statistics; `variances` is {index of a variance: index of its mean}."""
    return {*variances, *variances.values()}
