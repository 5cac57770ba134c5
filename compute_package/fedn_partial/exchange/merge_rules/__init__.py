"""Merge rules by name, one per file: how a round's updates become the new global model.

With W the global model, D_k = W_k - W the change that client k sent, n_k its number of examples, for each layer l the
set S_l of the m_l clients that sent it, and M_l = sum over S_l of n_k D_k / sum over S_l of n_k their mean:

all_clients : W_l += M_l times (sum of n_k over S_l / sum of n_k over ALL clients of the round)
contributors : W_l += M_l
shrunk : W_l += M_l times m_l / (m_l + shrinkage)
inverse_probability : W_l += sum over S_l of n_k D_k / p_kl / sum of n_k over ALL clients, with p_kl the probability
    that client k trained l, as reported by the client, at least 0.1 (Horvitz & Thompson 1952). Where more clients
    than expected trained a layer, its step exceeds that of each client.
clipped : all_clients with |D_k| of a layer limited to `clip` times the median of the layer's last |D_k|. Tolerates a
    wrong client if a layer has earlier norms, or is sent by three clients.
trimmed_mean, median : W_l += (trimmed mean or median of W_k over S_l, entry by entry, - W_l) times m_l / (number of
    clients of the round). They tolerate wrong clients if at least three sent a layer, see their files.

A custom rule is a subclass of ``MergeRule`` in a custom module. It runs in FEDn's hooks process, so its module may
import only NumPy, the standard library, and the classes below with
``from fedn_partial.exchange.merge_rules import MergeRule``.
"""

from __future__ import annotations

from ..custom import Registry

RULES = Registry(
    __package__,
    {
        "all_clients": "all_clients:AllClients",
        "contributors": "weighted_mean:WeightedMean",
        "shrunk": "shrunk:Shrunk",
        "inverse_probability": "inverse_probability:InverseProbability",
        "clipped": "clipped:Clipped",
        "trimmed_mean": "trimmed_mean:TrimmedMean",
        "median": "median:Median",
    },
)
# Names that a custom module may import
CLASSES = Registry(
    __package__,
    {
        **{place.split(":")[1]: place for place in RULES.places.values()},
        "BaseRule": "base:BaseRule",
        "MergeRule": "weighted_mean:WeightedMean",
        "Stacked": "stacked:Stacked",
    },
)


def __getattr__(name):
    if name not in CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return CLASSES[name]
