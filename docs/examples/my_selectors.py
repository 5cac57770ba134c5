"""A selector: a frozen dataclass whose fields are the keys of `selection:`."""

from dataclasses import dataclass

from fedn_partial.settings.schema import bounded
from fedn_partial.submodel.selection import Selector


@dataclass(frozen=True)
class Alternate(Selector):
    """Select every `step`-th layer, starting one layer later in each round."""

    step: int = bounded(2, at_least=1)

    def select(self, layers, context):
        """Return the names of the layers to train; `context` contains seed, round, client and more."""
        return [layer.name for layer in layers[context.round % self.step :: self.step]] or [layers[-1].name]
