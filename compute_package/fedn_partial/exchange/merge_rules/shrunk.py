"""Merge rule shrunk."""

from __future__ import annotations

from .weighted_mean import WeightedMean


class Shrunk(WeightedMean):
    """Weighted mean with a shorter step of layers that few clients sent."""

    def step_size(self, weight, contributors, all_examples):
        return contributors / (contributors + self.settings["client"]["shrinkage"])
