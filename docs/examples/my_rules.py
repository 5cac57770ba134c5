"""A merge rule. It runs in FEDn and may import NumPy, the standard library and this module only."""

import math

from fedn_partial.exchange.merge_rules import MergeRule


class SquareRoot(MergeRule):
    """Mean over the contributors of a layer, weighted by the square root of their examples."""

    def client_weights(self, names, examples, metadata, trainable):
        return dict.fromkeys(names, math.sqrt(examples))

    def step_size(self, weight, contributors, all_examples):
        return 1.0  # the full mean change; a smaller value damps it
