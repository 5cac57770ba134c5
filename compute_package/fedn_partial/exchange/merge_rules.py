"""Merge rules: how much each client counts in a layer, and how far the layer moves.

With W the global model, D_k = W_k - W the change that client k sent, n_k its number of examples, for each layer l the
set S_l of the m_l clients that sent it, and M_l = sum over S_l of n_k D_k / sum over S_l of n_k their mean:

all_clients : W_l += M_l times (sum of n_k over S_l / sum of n_k over ALL clients of the round)
contributors : W_l += M_l
shrunk : W_l += M_l times m_l / (m_l + shrinkage)
inverse_probability : W_l += sum over S_l of n_k D_k / p_kl / sum of n_k over ALL clients, with p_kl the probability
    that client k trained l, by its own account, at least 0.1 (Horvitz & Thompson 1952). Where more clients than
    expected trained a layer, it goes further than any of them did.
"""

from __future__ import annotations

LEAST_PROBABILITY = 0.1  # of a layer, with inverse_probability: no client counts more than tenfold


def client_weights(rule, names, examples, metadata, trainable):
    """Return the weight of an update in each of the layers `names`, n_k or n_k / p_kl.

    Parameters
    ----------
    trainable : names of the layers that are trained; other tensors have probability 1.

    Raises
    ------
    ValueError : inverse_probability, and the update has no valid probability of a layer.
    """
    if rule != "inverse_probability":
        return dict.fromkeys(names, examples)
    given = metadata.get("probabilities")
    given = given if isinstance(given, dict) else {}
    probable = {name: given.get(name) if name in trainable else 1.0 for name in names}
    for name, value in probable.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise ValueError(f"has probability {value!r} of {name}, expected a number above 0, at most 1")
    return {name: examples / max(value, LEAST_PROBABILITY) for name, value in probable.items()}


def step_size(rule, weight, contributors, all_examples, shrinkage):
    """Return the step from the global layer towards the mean of its updates; 1.0 is the mean itself.

    Parameters
    ----------
    weight : sum of the weights of those who sent the layer. contributors : how many they are.
    all_examples : examples of all clients of the round.
    """
    if rule == "contributors":
        return 1.0
    if rule == "shrunk":
        return contributors / (contributors + shrinkage)
    return weight / all_examples
