"""Merge rule all_clients, the default."""

from __future__ import annotations

from .weighted_mean import WeightedMean


class AllClients(WeightedMean):
    """Weighted mean over all clients of the round; those that did not send a layer count as no change."""

    def step_size(self, weight, contributors, all_examples):
        return weight / all_examples
