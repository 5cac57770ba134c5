"""Merge rule inverse_probability."""

from __future__ import annotations

from .all_clients import AllClients

MIN_PROBABILITY = 0.1  # no client counts more than tenfold


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
