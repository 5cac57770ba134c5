"""Which layers a client trains in a round.

A selector is a small frozen dataclass with ``select(layers, context) -> list[str]``. To add one, write the
class and put it into ``SELECTORS``; settings, JSON and tests pick it up from there.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

from fedn_partial.layers import Layer, pick
from fedn_partial.schema import SettingsError, bounded, parse_named


@dataclass(frozen=True)
class Context:
    """What a selector may look at.

    Attributes
    ----------
    seed : of the session.
    round : of the session, from 1.
    client : id of the client.
    warmup : whether this is a full round.
    max_layers : the device's own limit, or None.
    """

    seed: int
    round: int
    client: str
    warmup: bool = False
    max_layers: int | None = None

    def random(self, purpose: str = "selection") -> random.Random:
        """Return the random generator of this client in this round: equal for equal seed, round, client and purpose."""
        return random.Random(f"{self.seed}/{self.round}/{self.client}/{purpose}")


@dataclass(frozen=True)
class Selector:
    """Base of all selectors: `warmup_rounds` full rounds come first."""

    warmup_rounds: int = dataclasses.field(default=0, kw_only=True, metadata={"at_least": 0})

    def select(self, layers: list[Layer], context: Context) -> list[str]:
        """Return the names of the layers to train."""
        raise NotImplementedError


@dataclass(frozen=True)
class Random(Selector):
    """`layers` layers, of which those in `always_train` are fixed and the rest drawn at random.

    The selection that the figures of Alawadi et al. 2023 were made with: for VGG16 the output layer is always
    trained (``always_train: [dense]``), so their "4 layers" are it and 3 of the 13 convolutions.
    """

    layers: int = bounded(at_least=1)
    always_train: tuple[str, ...] = ()

    def __post_init__(self):
        if len(set(self.always_train)) > self.layers:
            raise SettingsError(f"always_train has more than layers={self.layers} names: {list(self.always_train)}")

    def select(self, layers: list[Layer], context: Context) -> list[str]:
        fixed = [layer.name for layer in pick(layers, self.always_train)]
        others = [layer.name for layer in layers if layer.name not in fixed]
        return fixed + context.random().sample(others, min(self.layers - len(fixed), len(others)))


@dataclass(frozen=True)
class Uniform(Selector):
    """`layers` layers, all drawn at random (the paper's Algorithm 2, line 3)."""

    layers: int = bounded(at_least=1)

    def select(self, layers: list[Layer], context: Context) -> list[str]:
        return Random(self.layers).select(layers, context)


@dataclass(frozen=True)
class All(Selector):
    """Every layer: plain federated averaging."""

    def select(self, layers: list[Layer], context: Context) -> list[str]:
        return [layer.name for layer in layers]


@dataclass(frozen=True)
class Fixed(Selector):
    """The layers called `names`, in every round."""

    names: tuple[str, ...] = bounded()

    def __post_init__(self):
        if not self.names:
            raise SettingsError("names must name at least one layer")

    def select(self, layers: list[Layer], context: Context) -> list[str]:
        return [layer.name for layer in pick(layers, self.names)]


SELECTORS = {"random": Random, "uniform": Uniform, "all": All, "fixed": Fixed}


def choose(selector: Selector, layers: list[Layer], context: Context) -> list[Layer]:
    """Return the layers that a client trains in this round, in model order.

    A warm-up round trains every layer. The device's own ``max_layers`` wins over both: of the layers asked for, that
    many are kept, drawn at random so that each still gets its turn; those always trained are kept first, if that
    leaves room for others.

    Raises
    ------
    FednPartialError : the selector names a layer that the model does not have.
    """
    chosen = selector.select(layers, context)  # also in warm-up, so that a wrong name is found in the first round
    if context.warmup:
        chosen = [layer.name for layer in layers]
    if context.max_layers is not None and len(chosen) > context.max_layers:
        fixed = [name for name in chosen if name in getattr(selector, "always_train", ())]
        fixed = fixed if len(fixed) < context.max_layers else []
        others = [name for name in chosen if name not in fixed]
        chosen = (fixed + context.random("limit").sample(others, len(others)))[: context.max_layers]
    return pick(layers, chosen)


def from_dict(raw: dict, where: str = "selection") -> Selector:
    """Return the selector described by a `selection:` section: ``selector``, its name, and its fields.

    Raises
    ------
    SettingsError : unknown selector or field, wrong type, impossible value.
    """
    return parse_named(raw, "selector", SELECTORS, where)


def to_dict(selector: Selector) -> dict:
    """Return the selector as a `selection:` section of plain values; ``from_dict`` reads it back."""
    name = next(name for name, cls in SELECTORS.items() if type(selector) is cls)
    fields = dataclasses.asdict(selector)
    return {"selector": name, **{k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}}
