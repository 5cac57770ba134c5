"""Selection of the layers that a client trains in a round.

A selector is a frozen dataclass with ``select(layers, context) -> list[str]``. To add one, write the class and register
it in ``SELECTORS``, or write it in a custom module.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from fedn_partial.custom import modules, names
from fedn_partial.errors import FednPartialError
from fedn_partial.settings.schema import SettingsError, bounded
from fedn_partial.submodel.layers import Layer, pick


class NothingFits(FednPartialError):
    """None of the requested layers is within the limits of this device."""


@dataclass(frozen=True)
class Context:
    """Input of a selector.

    Attributes
    ----------
    seed : of the session.
    round : of the session, from 1.
    client : name of the client.
    warmup : whether this is a full round.
    max_layers : the device's own limit, or None.
    fits : function that returns whether this device can train a list of layers together; None for no limits.
    merged_rounds : number of earlier rounds with merged updates.
    participants : the clients selected for this round: names, or FEDn's ids before the server has received the names.
    scores : {layer: relative change of its weights when last trained}, of the layers trained so far.
    """

    seed: int | str
    round: int
    client: str
    warmup: bool = False
    max_layers: int | None = None
    fits: Callable[[list[Layer]], bool] | None = None
    merged_rounds: int = 0
    participants: tuple[str, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)

    def random(self, purpose: str = "selection") -> random.Random:
        """Return a random generator seeded by seed, round, client and purpose."""
        return random.Random(f"{self.seed}/{self.round}/{self.client}/{purpose}")


@dataclass(frozen=True)
class Selector:
    """Base of all selectors: `warmup_rounds` full rounds come first.

    `signal` names the data that the server sends to clients in every round: "participants", "scores", or None.
    """

    signal: ClassVar[str | None] = None

    warmup_rounds: int = dataclasses.field(default=0, kw_only=True, metadata={"at_least": 0, "at_most": 100_000})

    def select(self, layers: list[Layer], context: Context) -> list[str]:
        """Return the names of the layers to train."""
        raise NotImplementedError


@dataclass(frozen=True)
class Random(Selector):
    """Select `layers` layers: all of `always_train`, the rest uniformly at random.

    This is the selection behind the figures of Alawadi et al. 2023: for VGG16 the output layer is always trained
    (``always_train: [dense]``), so their "4 layers" are the output layer and 3 of the 13 convolutions.
    """

    layers: int = bounded(at_least=1)
    always_train: tuple[str, ...] = ()

    def __post_init__(self):
        if len(set(self.always_train)) > self.layers:
            raise SettingsError(
                f"always_train must have at most layers={self.layers} names, found {list(self.always_train)}"
            )

    def select(self, layers: list[Layer], context: Context) -> list[str]:
        fixed = [layer.name for layer in pick(layers, self.always_train)]
        others = [layer.name for layer in layers if layer.name not in fixed]
        return fixed + context.random().sample(others, min(self.layers - len(fixed), len(others)))


@dataclass(frozen=True)
class Uniform(Selector):
    """Select `layers` layers uniformly at random (the paper's Algorithm 2, line 3)."""

    layers: int = bounded(at_least=1)

    def select(self, layers: list[Layer], context: Context) -> list[str]:
        return Random(self.layers).select(layers, context)


@dataclass(frozen=True)
class Stratified(Random):
    """Stratified selection: distribute layers over the round's clients so that each is trained equally often.

    The layers not in `always_train` are shuffled and assigned cyclically to the clients in random order. The numbers of
    clients of two layers differ by at most one, and with clients * count >= layers every layer has one. The server
    learns a client's name from its first update; until then the client selects as with ``random``, and its share of the
    round is not trained. With few clients drawn from many, that takes many rounds.
    """

    signal = "participants"

    def select(self, layers: list[Layer], context: Context) -> list[str]:
        if context.client not in context.participants:
            return super().select(layers, context)
        fixed = [layer.name for layer in pick(layers, self.always_train)]
        others = [layer.name for layer in layers if layer.name not in fixed]
        count = min(self.layers - len(fixed), len(others))
        # Every client shuffles with the same generator and selects its own share.
        generator = random.Random(f"{context.seed}/{context.round}/deal")
        order = generator.sample(sorted(context.participants), len(context.participants))
        first = order.index(context.client) * count
        shuffled = generator.sample(others, len(others))
        return fixed + [shuffled[index % len(shuffled)] for index in range(first, first + count)]


@dataclass(frozen=True)
class Cyclic(Selector):
    """Select the same `layers` consecutive layers for every client, cyclically (FedPart, NeurIPS 2024).

    The model is divided into groups of `layers` layers. A cycle begins with `full_rounds` rounds of all layers, then
    trains each group for `rounds_per_group` rounds; rounds without merged updates do not count. FedPart has
    ``layers: 1, full_rounds: 5, rounds_per_group: 2``. Layers in `always_train` belong to no group and are trained in
    every round, as part of the `layers`.
    """

    layers: int = bounded(at_least=1)
    rounds_per_group: int = bounded(2, at_least=1)
    full_rounds: int = bounded(0, at_least=0)
    always_train: tuple[str, ...] = ()

    def __post_init__(self):
        if len(set(self.always_train)) >= self.layers:
            raise SettingsError(
                f"always_train must have fewer than layers={self.layers} names, found {list(self.always_train)}"
            )

    def select(self, layers: list[Layer], context: Context) -> list[str]:
        fixed = [layer.name for layer in pick(layers, self.always_train)]
        others = [layer.name for layer in layers if layer.name not in fixed]
        size = self.layers - len(fixed)
        groups = [others[start : start + size] for start in range(0, len(others), size)]
        length = self.full_rounds + self.rounds_per_group * len(groups)
        position = max(0, context.merged_rounds - self.warmup_rounds) % length
        if position < self.full_rounds:
            return [layer.name for layer in layers]
        return fixed + groups[(position - self.full_rounds) // self.rounds_per_group]


@dataclass(frozen=True)
class Top(Selector):
    """Select the last `layers` layers, the least computation and memory (frozen as in FedOLF)."""

    layers: int = bounded(at_least=1)

    def select(self, layers: list[Layer], context: Context) -> list[str]:
        return [layer.name for layer in layers[-self.layers :]]


@dataclass(frozen=True)
class Scored(Random):
    """As ``random``, with probabilities that grow with the change of a layer's weights when last trained.

    A layer that was never trained has the mean score of the others. Layers are drawn without replacement; `floor` is
    the uniform share of the first draw's probabilities, so that every layer is selected eventually.
    """

    floor: float = bounded(0.5, above=0, at_most=1)

    signal = "scores"

    def select(self, layers: list[Layer], context: Context) -> list[str]:
        fixed = [layer.name for layer in pick(layers, self.always_train)]
        others = [layer.name for layer in layers if layer.name not in fixed]
        present = [context.scores[name] for name in others if name in context.scores]
        mean = sum(present) / len(present) if present else 0.0
        scores = {name: context.scores.get(name, mean) for name in others}
        total = sum(scores.values())
        weights = {
            name: self.floor / len(others) + (1 - self.floor) * (score / total if total else 1 / len(others))
            for name, score in scores.items()
        }
        # The largest keys are a weighted sample without replacement (Efraimidis & Spirakis 2006).
        draw = context.random()
        keys = {name: math.log(draw.random() or math.ulp(0.0)) / weight for name, weight in weights.items()}
        count = min(self.layers - len(fixed), len(others))
        return fixed + sorted(others, key=lambda name: keys[name], reverse=True)[:count]


@dataclass(frozen=True)
class All(Selector):
    """Select every layer: plain federated averaging."""

    def select(self, layers: list[Layer], context: Context) -> list[str]:
        return [layer.name for layer in layers]


@dataclass(frozen=True)
class Fixed(Selector):
    """Select the layers `names` in every round."""

    names: tuple[str, ...] = bounded()

    def __post_init__(self):
        if not self.names:
            raise SettingsError("names must name at least one layer")

    def select(self, layers: list[Layer], context: Context) -> list[str]:
        return [layer.name for layer in pick(layers, self.names)]


@dataclass(frozen=True)
class Budget(Selector):
    """Select as many random layers as are within these limits and the device's own.

    `memory_mb` : of FEDn's client and its compute package together; `upload_mb` : of the update; `seconds` : of the
    training request. The lower of these and the device's own limits applies.
    """

    memory_mb: float | None = bounded(None, above=0)
    upload_mb: float | None = bounded(None, above=0)
    seconds: float | None = bounded(None, above=0)
    always_train: tuple[str, ...] = ()

    def select(self, layers: list[Layer], context: Context) -> list[str]:
        pick(layers, self.always_train)
        return [layer.name for layer in layers]


SELECTORS = {
    "random": Random,
    "uniform": Uniform,
    "stratified": Stratified,
    "cyclic": Cyclic,
    "top": Top,
    "scored": Scored,
    "all": All,
    "fixed": Fixed,
    "budget": Budget,
}
EARLIER_NAMES = {"dealt": "stratified"}  # of selectors in old cases and runs
DRAWS = 400  # of ``probabilities``, for a standard error of at most 0.025


@dataclass(frozen=True)
class Selection:
    """The layers that a client trains in a round.

    Attributes
    ----------
    layers : in model order. context : input of the selector.
    limited : why they are fewer than requested, or None.
    """

    layers: list[Layer]
    context: Context
    limited: str | None = None


def select(selector: Selector, layers: list[Layer], context: Context, explain=lambda requested: "") -> Selection:
    """Return the selection of this client in this round, and why it is limited (raises as ``select_layers``).

    Parameters
    ----------
    explain : function that returns which limits the requested layers exceed.
    """
    requested = requested_layers(selector, layers, context)
    selected = _within_limits(selector, requested, context)
    if len(selected) == len(requested):
        return Selection(selected, context)
    limited = f"{len(selected)} of the {len(requested)} requested layers"
    reasons = explain(requested)
    return Selection(selected, context, f"{limited}: {reasons}" if reasons else limited)


def select_layers(selector: Selector, layers: list[Layer], context: Context) -> list[Layer]:
    """Return the layers that a client trains in this round, in model order.

    These are the requested layers, as far as they are within the device's limits: first one drawn at random, so that
    every layer that fits is selected eventually, then `always_train` if it fits as well, then others at random.

    Raises
    ------
    FednPartialError : the selector names a layer that the model does not have.
    NothingFits : none of the requested layers is within the device's limits.
    """
    return _within_limits(selector, requested_layers(selector, layers, context), context)


def _within_limits(selector: Selector, requested: list[Layer], context: Context) -> list[Layer]:
    """Return as many of the `requested` layers as the client's limits allow (raises NothingFits)."""
    if _allowed(requested, context):
        return requested
    order = context.random("limit").sample(requested, len(requested))
    first = next((layer for layer in order if _allowed([layer], context)), None)
    if first is not None:
        always = [
            layer for layer in requested if layer.name in getattr(selector, "always_train", ()) and layer != first
        ]
        selected = [first, *always] if _allowed([first, *always], context) else [first]
        for layer in order:
            if layer not in selected and _allowed([*selected, layer], context):
                selected.append(layer)
        return [layer for layer in requested if layer in selected]
    raise NothingFits(f"none of the {len(requested)} requested layers is within the limits of this device")


def requested_layers(selector: Selector, layers: list[Layer], context: Context) -> list[Layer]:
    """Return the layers that a client is requested to train, in model order, regardless of its limits."""
    with modules.calling(type(selector).select):
        selected = selector.select(layers, context)  # also in warm-up, so that a wrong name fails in the first round
    return list(layers) if context.warmup else pick(layers, selected)


def probabilities(selector: Selector, layers: list[Layer], context: Context) -> dict[str, float]:
    """Return the probability that this client trains each layer in this round: {layer: above 0 to 1}.

    Estimated from ``DRAWS`` selections of this client with other seeds, but the same limits, participants and scores.
    """
    draws = [context, *(dataclasses.replace(context, seed=f"{context.seed}/{draw}") for draw in range(1, DRAWS))]
    counts = Counter(layer.name for draw in draws for layer in select_layers(selector, layers, draw))
    return {name: count / DRAWS for name, count in counts.items()}


def _allowed(selected: list[Layer], context: Context) -> bool:
    if context.max_layers is not None and len(selected) > context.max_layers:
        return False
    return context.fits is None or context.fits(selected)


def from_dict(raw: dict, where: str = "selection") -> Selector:
    """Return the selector described by a `selection:` section: ``selector``, its name, and its fields.

    Raises
    ------
    SettingsError : unknown selector or field, wrong type, invalid value.
    UserCodeError : a custom selector that cannot be imported.
    """
    name = raw.get("selector")
    if name in list(EARLIER_NAMES):
        raw = {**raw, "selector": EARLIER_NAMES[name]}
    return names.parse_section(raw, "selector", SELECTORS, Selector, where)


def to_dict(selector: Selector) -> dict:
    """Return the selector as a `selection:` section of plain values, which ``from_dict`` reads."""
    short_names = {cls: name for name, cls in SELECTORS.items()}
    name = short_names.get(type(selector)) or names.name_of(type(selector))
    fields = dataclasses.asdict(selector)
    return {"selector": name, **{k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}}
