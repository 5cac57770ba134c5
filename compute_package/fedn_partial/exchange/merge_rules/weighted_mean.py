"""Merge rule contributors, the base of all rules that take a weighted mean."""

from __future__ import annotations

import math

import numpy as np

from ..batchnorm import second_moment
from ..changes import CHUNK
from .base import BaseRule


class WeightedMean(BaseRule):
    """Weighted mean of a layer's updates, over the clients that sent it.

    Updates are added to sums as they arrive. Moving variances are pooled: the merged variance is that of the mixture of
    the clients' distributions (with rule ``all_clients``, clients that did not send a layer count with the global
    model's mean and variance).

    Memory: float64 sums of one model.
    """

    def step_size(self, weight, contributors, all_examples):
        """Return the step from the global layer towards the mean of its updates; 1.0 is the mean itself.

        Parameters
        ----------
        weight : sum of the weights of the clients that sent the layer. contributors : number of these clients.
        all_examples : number of examples of all clients of the round.
        """
        return 1.0

    def begin(self, round):
        super().begin(round)
        self.buffer = np.empty(CHUNK)
        self.sums = {}  # index of a tensor -> float64 sum of w_k W_k (variances: of w_k E[x^2])
        self.weights, self.coverage = {}, {}  # layer -> sum of w_k, number of clients that sent it
        self.all_examples = 0

    def add(self, update):
        for name, arrays in update.tensors.items():
            self.add_layer(name, arrays, update.weights[name])
        self.all_examples += update.examples

    def add_layer(self, name, arrays, weight):
        """Add one layer of an update to the sums."""
        variances = self.round.settings["variances"]
        values = dict(zip(self.round.settings["indices"][name], arrays, strict=True))
        for index, array in values.items():
            if index in variances:
                term = weight * second_moment(array, values[variances[index]])
                self.sums[index] = self.sums.get(index, 0.0) + term
                continue
            self.add_tensor(index, array, weight)
        self.weights[name] = self.weights.get(name, 0) + weight
        self.coverage[name] = self.coverage.get(name, 0) + 1

    def add_tensor(self, index, array, weight):
        """Add the values of a tensor to its sum."""
        if index not in self.sums:
            self.sums[index] = np.zeros(array.shape)
        sums, new = self.sums[index].reshape(-1), array.reshape(-1)
        for start in range(0, new.size, CHUNK):
            chunk = slice(start, start + CHUNK)
            term = self.buffer[: new[chunk].size]
            np.multiply(new[chunk], weight, out=term, dtype=np.float64)
            sums[chunk] += term

    def merge(self, name):
        weight = self.weights[name]
        means = (self.sums.pop(index) / weight for index in self.round.settings["indices"][name])
        return self.step_towards(name, means, self.step(name))

    def step(self, name):
        """Return the checked ``step_size`` of a layer."""
        settings = self.round.settings
        if name not in settings["parameters"]:  # statistics, sent by every client
            return 1.0
        step = self.step_size(self.weights[name], self.coverage[name], self.all_examples)
        if not 0 <= step < math.inf:
            raise RuntimeError(
                f"fedn-partial: merge rule {settings['client']['merge']} returned step size {step!r} for {name}"
            )
        return step

    def end(self):
        super().end()
        self.sums = {}
