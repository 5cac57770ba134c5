"""The size of clients' changes."""

from __future__ import annotations

import math

import numpy as np

from .batchnorm import statistics

CHUNK = 32768  # values in memory as float64 at once: faster, and no second copy of a layer


def squared_norm(arrays):
    """Return the sum of all squared values in `arrays`."""
    return sum((float(np.sum(np.square(array, dtype=np.float64))) for array in arrays), 0.0)


def difference_norm(array, other):
    """Return |array - other|, computed in float64."""
    array, other, total, buffer = array.reshape(-1), other.reshape(-1), 0.0, np.empty(CHUNK)
    for start in range(0, array.size, CHUNK):
        chunk = slice(start, start + CHUNK)
        difference = buffer[: array[chunk].size]
        np.subtract(array[chunk], other[chunk], out=difference, dtype=np.float64)
        total += float(np.square(difference, out=difference).sum())
    return math.sqrt(total)


class RelativeChanges:
    """Relative change of each layer in one round, sqrt(mean |D_k|^2 / |W|^2), without BatchNormalization's statistics.

    Parameters
    ----------
    indices : {layer: indices of its tensors in the model}.
    variances : {index of a moving variance: index of its moving mean}.
    """

    def __init__(self, indices, variances):
        self.indices, self.statistics = indices, statistics(variances)
        self.sums, self.weights = {}, {}  # layer -> sum of w_k |D_k|^2, and of w_k

    def add(self, model, update):
        """Add an update, which is based on the global model `model`."""
        for name, arrays in update.tensors.items():
            pairs = zip(self.indices[name], arrays, strict=True)
            change = squared_norm(array - model[index] for index, array in pairs if index not in self.statistics)
            self.sums[name] = self.sums.get(name, 0.0) + update.weights[name] * change
            self.weights[name] = self.weights.get(name, 0) + update.weights[name]

    def scores(self, model):
        """Return {layer: relative change} of the layers that were sent, 0 where it is not finite."""
        scores = {}
        for name, total in self.sums.items():
            size = squared_norm(model[index] for index in self.indices[name] if index not in self.statistics)
            change = total / self.weights[name]
            scores[name] = (change / size) ** 0.5 if 0 < size < np.inf > change else 0.0
        return scores
