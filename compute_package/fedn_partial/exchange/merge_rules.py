"""Merge rules: the weight of each client in a layer, and the step size of the layer.

With W the global model, D_k = W_k - W the change that client k sent, n_k its number of examples, for each layer l the
set S_l of the m_l clients that sent it, and M_l = sum over S_l of n_k D_k / sum over S_l of n_k their mean:

all_clients : W_l += M_l times (sum of n_k over S_l / sum of n_k over ALL clients of the round)
contributors : W_l += M_l
shrunk : W_l += M_l times m_l / (m_l + shrinkage)
inverse_probability : W_l += sum over S_l of n_k D_k / p_kl / sum of n_k over ALL clients, with p_kl the probability
    that client k trained l, as reported by the client, at least 0.1 (Horvitz & Thompson 1952). Where more clients
    than expected trained a layer, its step exceeds that of each client.

A custom rule is a subclass of ``MergeRule`` in a custom module. It runs in FEDn's hooks process, so its module may
import only NumPy, the standard library, and its base with
``from fedn_partial.exchange.merge_rules import MergeRule``.
"""

from __future__ import annotations

MIN_PROBABILITY = 0.1  # with inverse_probability: no client counts more than tenfold


class MergeRule:
    """Base of all merge rules: the mean over the clients that sent a layer, weighted by their examples.

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

    def step_size(self, weight, contributors, all_examples):
        """Return the step from the global layer towards the mean of its updates; 1.0 is the mean itself.

        Parameters
        ----------
        weight : sum of the weights of the clients that sent the layer. contributors : number of these clients.
        all_examples : number of examples of all clients of the round.
        """
        return 1.0


class AllClients(MergeRule):
    """Count clients that did not send a layer as no change."""

    def step_size(self, weight, contributors, all_examples):
        return weight / all_examples


class Shrunk(MergeRule):
    """Shorten the step of layers that few clients sent."""

    def step_size(self, weight, contributors, all_examples):
        return contributors / (contributors + self.settings["client"]["shrinkage"])


class InverseProbability(AllClients):
    """Weight a client in each layer by the inverse of its probability of training that layer."""

    needs_probabilities = True

    def client_weights(self, names, examples, metadata, trainable):
        reported = metadata.get("probabilities")
        reported = reported if isinstance(reported, dict) else {}
        probabilities = {name: reported.get(name) if name in trainable else 1.0 for name in names}
        for name, value in probabilities.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
                raise ValueError(f"has probability {value!r} of {name}, expected a number above 0 and at most 1")
        return {name: examples / max(value, MIN_PROBABILITY) for name, value in probabilities.items()}


RULES = {
    "all_clients": AllClients,
    "contributors": MergeRule,
    "shrunk": Shrunk,
    "inverse_probability": InverseProbability,
}
