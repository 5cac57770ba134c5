"""Merge rules: how much each client counts in a layer, and how far the layer moves.

With W the global model, D_k = W_k - W the change that client k sent, n_k its number of examples, for each layer l the
set S_l of the m_l clients that sent it, and M_l = sum over S_l of n_k D_k / sum over S_l of n_k their mean:

all_clients : W_l += M_l times (sum of n_k over S_l / sum of n_k over ALL clients of the round)
contributors : W_l += M_l
shrunk : W_l += M_l times m_l / (m_l + shrinkage)
inverse_probability : W_l += sum over S_l of n_k D_k / p_kl / sum of n_k over ALL clients, with p_kl the probability
    that client k trained l, by its own account, at least 0.1 (Horvitz & Thompson 1952). Where more clients than
    expected trained a layer, it goes further than any of them did.

A rule of the user's own is a subclass of ``MergeRule`` in a custom module. It runs in FEDn's hooks process, so its
module imports NumPy and the standard library only, and its base as
``from fedn_partial.exchange.merge_rules import MergeRule``.
"""

from __future__ import annotations

LEAST_PROBABILITY = 0.1  # of a layer, with inverse_probability: no client counts more than tenfold


class MergeRule:
    """Base of all merge rules: the mean of those who sent a layer, each with its number of examples.

    Attributes
    ----------
    settings : of the session, see ``fedn_partial.seed_model.server_functions.session_settings``.
    needs_probabilities : whether clients tell how probable it was that they train each of their layers.
    """

    needs_probabilities = False

    def __init__(self, settings):
        self.settings = settings

    def client_weights(self, names, examples, metadata, trainable):
        """Return the weight of an update in each of the layers `names`, {layer: above 0}; n_k if not overridden.

        Parameters
        ----------
        metadata : of the update, as the client sent it.
        trainable : names of the layers that are trained; other tensors have probability 1.

        Raises
        ------
        ValueError : the update must be skipped; the message says why.
        """
        return dict.fromkeys(names, examples)

    def step_size(self, weight, contributors, all_examples):
        """Return the step from the global layer towards the mean of its updates; 1.0 is the mean itself.

        Parameters
        ----------
        weight : sum of the weights of those who sent the layer. contributors : how many they are.
        all_examples : examples of all clients of the round.
        """
        return 1.0


class AllClients(MergeRule):
    """Clients that did not send a layer count as no change."""

    def step_size(self, weight, contributors, all_examples):
        return weight / all_examples


class Shrunk(MergeRule):
    """The fewer clients sent a layer, the shorter its step."""

    def step_size(self, weight, contributors, all_examples):
        return contributors / (contributors + self.settings["client"]["shrinkage"])


class InverseProbability(AllClients):
    """The less probable it was that a client trains a layer, the more it counts there."""

    needs_probabilities = True

    def client_weights(self, names, examples, metadata, trainable):
        given = metadata.get("probabilities")
        given = given if isinstance(given, dict) else {}
        probable = {name: given.get(name) if name in trainable else 1.0 for name in names}
        for name, value in probable.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
                raise ValueError(f"has probability {value!r} of {name}, expected a number above 0, at most 1")
        return {name: examples / max(value, LEAST_PROBABILITY) for name, value in probable.items()}


RULES = {
    "all_clients": AllClients,
    "contributors": MergeRule,
    "shrunk": Shrunk,
    "inverse_probability": InverseProbability,
}
