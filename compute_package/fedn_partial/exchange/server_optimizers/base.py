"""Base of server optimizers."""

from __future__ import annotations


class ServerOptimizer:
    """Interface of server optimizers, and the optimizer none, which takes the merged tensors as they are.

    Attributes
    ----------
    settings : of the session, see ``fedn_partial.seed_model.server_functions.session_settings``.
    keeps_arrays : whether it has arrays that belong to a global model, and are saved and restored with it.
    """

    keeps_arrays = False

    def __init__(self, settings):
        self.settings = settings

    def begin(self, arrays):
        """Begin the step of a round with the arrays {name: array} that belong to its global model, {} at first."""

    def step(self, index, old, merged):
        """Return the new values of a tensor that clients sent.

        Parameters
        ----------
        index : of the tensor in the model. old : its global values. merged : float64, by the merge rule.
        """
        return merged

    def end(self):
        """End the step of a round; return the arrays {name: array} that belong to the new global model."""
        return {}
