"""A merge rule. It runs in FEDn's process: NumPy, the standard library and this one import only."""

import math

from fedn_partial.exchange.merge_rules import MergeRule


class SquareRoot(MergeRule):
    """The mean of those who sent a layer, each with the square root of its examples: no large client outweighs all."""

    def client_weights(self, names, examples, metadata, trainable):
        return dict.fromkeys(names, math.sqrt(examples))

    def step_size(self, weight, contributors, all_examples):
        return 1.0  # the mean itself; less than 1 keeps that much of the global layer
