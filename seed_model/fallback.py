"""An aggregator that always fails, as FEDn's fallback when its hooks process is down.

FEDn 0.33 then averages the updates itself, treating partial updates as whole models. Two settings prevent this:
``num_examples`` is a string (see ``fedn_partial.exchange.encoding``), on which FEDn's averaging fails, and the session
has an aggregator that cannot produce a model: FEDn's FedOpt with an unknown optimiser. It takes all updates of the
round from its queue, so that none is left for the next round, and fails.
"""

from __future__ import annotations

AGGREGATOR = "fedopt"
_OPTIMIZER = "none: fedn-partial merges in its server functions"
AGGREGATOR_KWARGS = repr({"serveropt": _OPTIMIZER})


def is_ours(config: dict) -> bool:
    """Return whether a round configuration of FEDn's combiner belongs to a session of fedn-partial."""
    return config.get("aggregator_kwargs") == AGGREGATOR_KWARGS


class NoFallback:
    """Aggregator for the local network's combiner, which discards updates without loading them."""

    name = "none"

    def __init__(self, update_handler):
        self.update_handler = update_handler

    def combine_models(self, helper=None, delete_models=True, parameters=None):
        """Discard the updates and return no model."""
        while not self.update_handler.model_updates.empty():
            update = self.update_handler.next_model_update()
            self.update_handler.delete_model(update)
        timing = {"time_model_load": 0.0, "time_model_aggregation": 0.0, "nr_aggregated_models": 0}
        return None, timing
