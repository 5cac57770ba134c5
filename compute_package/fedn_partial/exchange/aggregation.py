"""Weighted mean of the updates of a round, per layer, streamed.

BatchNormalization's moving statistics never move beyond the mean of those sent. Moving variances are pooled: the merged
variance is that of the mixture of the clients' distributions (with merge rule ``all_clients``, clients that did not
send a layer count with the global model's mean and variance).

Memory: float64 sums of one model.
"""

from __future__ import annotations

import numpy as np

CHUNK = 32768  # values added at once: faster, and no second copy of a layer


def second_moment(variance, mean):
    """Return E[x^2] = variance + mean^2 as float64."""
    return variance.astype(np.float64) + np.square(mean, dtype=np.float64)


class Aggregate:
    """Sums of the updates of one round.

    Parameters
    ----------
    indices : {layer: indices of its tensors in the model}.
    variances : {index of a moving variance: index of its moving mean}.

    Attributes
    ----------
    weights : {layer: sum of w_k of the clients that sent it}. coverage : {layer: number of clients that sent it}.
    squared_change : {layer: sum of w_k |D_k|^2}, if scores are computed.
    """

    def __init__(self, indices, variances):
        self.indices, self.variances = indices, variances
        self.statistics = {*variances, *variances.values()}
        self.buffer = np.empty(CHUNK)
        self.sums = {}  # index -> float64 sum of w_k W_k (variances: of w_k E[x^2])
        self.weights, self.coverage, self.squared_change = {}, {}, {}

    def add(self, model, tensors, weights, scores):
        """Add an update's tensors {layer: arrays}; `model` is the global model it is based on."""
        for name, arrays in tensors.items():
            self.add_layer(name, arrays, weights[name])
            self.weights[name] = self.weights.get(name, 0) + weights[name]
            self.coverage[name] = self.coverage.get(name, 0) + 1
            if scores:
                change = weights[name] * self.squared_norm(model, name, arrays)
                self.squared_change[name] = self.squared_change.get(name, 0.0) + change

    def add_layer(self, name, arrays, weight):
        """Add w_k W_k of one layer to the sums."""
        values = dict(zip(self.indices[name], arrays, strict=True))
        for index, array in values.items():
            if index in self.variances:
                term = weight * second_moment(array, values[self.variances[index]])
                self.sums[index] = self.sums.get(index, 0.0) + term
                continue
            if index not in self.sums:
                self.sums[index] = np.zeros(array.shape)
            sums, new = self.sums[index].reshape(-1), array.reshape(-1)
            for start in range(0, new.size, CHUNK):
                chunk = slice(start, start + CHUNK)
                term = self.buffer[: new[chunk].size]
                np.multiply(new[chunk], weight, out=term, dtype=np.float64)
                sums[chunk] += term

    def squared_norm(self, model, name, arrays=None):
        """Return |W_k - W|^2 of one layer, or |W|^2 without `arrays`, excluding BatchNormalization's statistics."""
        total = 0.0
        for position, index in enumerate(self.indices[name]):
            if index not in self.statistics:
                change = model[index] if arrays is None else arrays[position] - model[index]
                total += float(np.sum(np.square(change, dtype=np.float64)))
        return total

    def merge(self, model, new, name, step, kernel_dtype):
        """Write the merged tensors of one layer to the list `new`.

        Parameters
        ----------
        model : the global model of this round. step : see ``merge_rules.MergeRule.step_size``.
        kernel_dtype : dtype of the global model's tensors with more than one dimension.
        """
        merged = {}
        for index in self.indices[name]:
            old = model[index].astype(np.float64)
            share = min(step, 1.0) if index in self.statistics else step
            mean = self.sums.pop(index) / self.weights[name]
            if index in self.variances:
                moment = (1 - share) * second_moment(old, model[self.variances[index]]) + share * mean
                # Keras stores the moving mean before the moving variance, so the mean is already merged.
                value = np.maximum(moment - merged[self.variances[index]] ** 2, 0.0)
            else:
                value = mean if share == 1 else (1 - share) * old + share * mean
            merged[index] = value
            dtype = kernel_dtype if value.ndim > 1 else "float32"
            if share > 1:  # beyond what any client sent
                value = np.clip(value, -np.finfo(dtype).max, np.finfo(dtype).max)
            new[index] = value.astype(dtype)

    def score(self, model, name):
        """Return the relative change of one layer, sqrt(mean |D_k|^2 / |W|^2), or 0 where that is not finite."""
        size, change = self.squared_norm(model, name), self.squared_change[name] / self.weights[name]
        return (change / size) ** 0.5 if 0 < size < np.inf > change else 0.0
