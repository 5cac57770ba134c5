"""What FEDn does with updates where its hooks process is down, or fails: nothing.

FEDn 0.33 then averages the updates itself, which would take a partial update for a whole model. Two things prevent
that on any FEDn of this version: ``num_examples`` is a string (see ``fedn_partial.exchange.encoding``), which FEDn's
averaging does not take, and the session names an aggregator that cannot make a model: FEDn's FedOpt with an optimiser
that it does not have. It reads all updates of the round from its queue, so that none is left for the next round, and
fails.
"""

from __future__ import annotations

AGGREGATOR = "fedopt"
_OPTIMIZER = "none: fedn-partial merges in its server functions"
AGGREGATOR_KWARGS = repr({"serveropt": _OPTIMIZER})


def is_ours(config: dict) -> bool:
    """Return whether a round's configuration, as FEDn's combiner has it, is that of a session of fedn-partial."""
    return config.get("aggregator_kwargs") == AGGREGATOR_KWARGS


class NoFallback:
    """The same for a combiner of our own: it does not load any update to find out that it cannot merge it."""

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
