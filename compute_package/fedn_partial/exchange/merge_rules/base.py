"""What the server functions call of a merge rule."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..batchnorm import second_moment, statistics


class Round(NamedTuple):
    """The round whose updates are merged.

    Attributes
    ----------
    model : the global model, a list of arrays.
    settings : of the session, see ``fedn_partial.seed_model.server_functions.session_settings``.
    memory : JSON values that the rule keeps from round to round, in the session's state.
    """

    model: list
    settings: dict
    memory: dict


class Update(NamedTuple):
    """A checked update.

    Attributes
    ----------
    tensors : {layer: arrays, in the order of ``settings["indices"][layer]``}.
    weights : {layer: weight of the client}, see ``BaseRule.client_weights``.
    """

    examples: int
    tensors: dict
    weights: dict


class BaseRule:
    """Interface of all merge rules.

    In each round, the server functions call ``begin``, ``add`` for each update, ``merge`` for each layer that a client
    sent, and ``end``; for a round that is interrupted only ``end``, before the next one begins.

    Attributes
    ----------
    settings : of the session, see ``fedn_partial.seed_model.server_functions.session_settings``.
    needs_probabilities : whether clients report the probability of each layer that they trained.
    """

    needs_probabilities = False

    def __init__(self, settings):
        self.settings = settings

    def client_weights(self, names, examples, metadata, trainable):
        """Return the weight of an update in each of the layers `names`, {layer: above 0}; n_k by default.

        Parameters
        ----------
        metadata : of the update, as sent by the client.
        trainable : names of the layers that are trained; other tensors have probability 1.

        Raises
        ------
        ValueError : the update must be skipped; the message is the reason.
        """
        return dict.fromkeys(names, examples)

    def begin(self, round):
        """Begin a round, without any update."""
        self.round = round

    def add(self, update):
        """Add an update.

        Raises
        ------
        ValueError : the update must be skipped; nothing of it was added. The message is the reason.
        """
        raise NotImplementedError

    def merge(self, name):
        """Return the merged tensors of the layer `name`, arrays in the order of ``settings["indices"][name]``."""
        raise NotImplementedError

    def end(self):
        """End a round, and free what its updates take."""
        self.round = None

    def step_towards(self, name, targets, step):
        """Return the tensors of a layer after a step from the global model towards `targets`, as float64 arrays.

        BatchNormalization's moving statistics never move beyond their targets.

        Parameters
        ----------
        targets : iterable of arrays, one for each tensor of the layer; for a moving variance the second moment E[x^2].
        step : 1.0 gives the targets themselves.
        """
        model, variances = self.round.model, self.round.settings["variances"]
        unaccelerated, merged = statistics(variances), {}
        for index, target in zip(self.round.settings["indices"][name], targets, strict=True):
            old = model[index].astype(np.float64)
            share = min(step, 1.0) if index in unaccelerated else step
            if index in variances:
                moment = (1 - share) * second_moment(old, model[variances[index]]) + share * target
                # Keras stores the moving mean before the moving variance, so the mean is already merged.
                merged[index] = np.maximum(moment - merged[variances[index]] ** 2, 0.0)
            else:
                merged[index] = target if share == 1 else (1 - share) * old + share * target
        return list(merged.values())
