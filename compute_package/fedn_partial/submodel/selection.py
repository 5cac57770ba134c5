"""Which layers a client trains in a round.

A selector is a small frozen dataclass with ``select(layers, context) -> list[str]``. To add one, write the
class and put it into ``SELECTORS``, or into a custom module; settings, JSON and tests pick it up from there.
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
from fedn_partial.settings.schema import SettingsError, bounded, parse, parse_named
from fedn_partial.submodel.layers import Layer, pick


class NothingFits(FednPartialError):
    """This device can train none of the layers that it is asked to train."""


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
    fits : function that tells whether this device can train these layers together, or None if it can train any.
    merged_rounds : how many rounds before this one made a model.
    participants : the clients that were asked to train in this round: names, or FEDn's ids of those whose name the
        server does not know yet.
    scores : {layer: relative change of its weights when it was last trained}, of the layers that were.
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
        """Return the random generator of this client in this round: equal for equal seed, round, client and purpose."""
        return random.Random(f"{self.seed}/{self.round}/{self.client}/{purpose}")


@dataclass(frozen=True)
class Selector:
    """Base of all selectors: `warmup_rounds` full rounds come first.

    `signal` names what the server has to tell clients in every round: "participants", "scores", or nothing.
    """

    signal: ClassVar[str | None] = None

    warmup_rounds: int = dataclasses.field(default=0, kw_only=True, metadata={"at_least": 0, "at_most": 100_000})

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
class Stratified(Random):
    """Stratified selection: distribute layers over the round's clients so that each is trained equally often.

    The layers that are not always trained are shuffled and handed out in turn, again and again, to the clients in a
    random order. The numbers of clients of two layers differ by at most one, and with clients * count >= layers every
    layer has one. The server learns a client's name with its first update; until then the client selects as with
    ``random``, and its share of the round goes untrained. With few clients drawn from many, that takes many rounds.
    """

    signal = "participants"

    def select(self, layers: list[Layer], context: Context) -> list[str]:
        if context.client not in context.participants:
            return super().select(layers, context)
        fixed = [layer.name for layer in pick(layers, self.always_train)]
        others = [layer.name for layer in layers if layer.name not in fixed]
        count = min(self.layers - len(fixed), len(others))
        # Every client shuffles with the same generator and takes its own share.
        generator = random.Random(f"{context.seed}/{context.round}/deal")
        order = generator.sample(sorted(context.participants), len(context.participants))
        first = order.index(context.client) * count
        shuffled = generator.sample(others, len(others))
        return fixed + [shuffled[place % len(shuffled)] for place in range(first, first + count)]


@dataclass(frozen=True)
class Cyclic(Selector):
    """Every client the same `layers` neighbouring layers, from input to output and again (FedPart, NeurIPS 2024).

    The model is cut into groups of so many layers. A cycle begins with `full_rounds` rounds of all layers, then each
    group has `rounds_per_group` rounds; a round that made no model does not count. FedPart has ``layers: 1,
    full_rounds: 5, rounds_per_group: 2``. Those in `always_train` are no group's, but trained in every round.
    """

    layers: int = bounded(at_least=1)
    rounds_per_group: int = bounded(2, at_least=1)
    full_rounds: int = bounded(0, at_least=0)
    always_train: tuple[str, ...] = ()

    def __post_init__(self):
        if len(set(self.always_train)) >= self.layers:
            raise SettingsError(f"always_train leaves none of layers={self.layers} to go round")

    def select(self, layers: list[Layer], context: Context) -> list[str]:
        fixed = [layer.name for layer in pick(layers, self.always_train)]
        others = [layer.name for layer in layers if layer.name not in fixed]
        size = self.layers - len(fixed)
        groups = [others[start : start + size] for start in range(0, len(others), size)]
        length = self.full_rounds + self.rounds_per_group * len(groups)
        place = max(0, context.merged_rounds - self.warmup_rounds) % length
        if place < self.full_rounds:
            return [layer.name for layer in layers]
        return fixed + groups[(place - self.full_rounds) // self.rounds_per_group]


@dataclass(frozen=True)
class Top(Selector):
    """The last `layers` layers: least computing and memory, as nothing below them is trained (as FedOLF freezes)."""

    layers: int = bounded(at_least=1)

    def select(self, layers: list[Layer], context: Context) -> list[str]:
        return [layer.name for layer in layers[-self.layers :]]


@dataclass(frozen=True)
class Scored(Random):
    """As ``random``, but a layer is the likelier drawn the more its weights changed when it was last trained.

    A layer that was never trained counts as the mean of those that were. Layers are drawn one after the other; `floor`
    is the share of the first draw that is given to all evenly, whatever their change, so that none is left for good.
    """

    floor: float = bounded(0.5, above=0, at_most=1)

    signal = "scores"

    def select(self, layers: list[Layer], context: Context) -> list[str]:
        fixed = [layer.name for layer in pick(layers, self.always_train)]
        others = [layer.name for layer in layers if layer.name not in fixed]
        known = [context.scores[name] for name in others if name in context.scores]
        mean = sum(known) / len(known) if known else 0.0
        scores = {name: context.scores.get(name, mean) for name in others}
        total = sum(scores.values())
        weights = {
            name: self.floor / len(others) + (1 - self.floor) * (score / total if total else 1 / len(others))
            for name, score in scores.items()
        }
        # The largest of these keys are a weighted draw without replacement (Efraimidis & Spirakis 2006).
        draw = context.random()
        keys = {name: math.log(draw.random() or math.ulp(0.0)) / weight for name, weight in weights.items()}
        count = min(self.layers - len(fixed), len(others))
        return fixed + sorted(others, key=lambda name: keys[name], reverse=True)[:count]


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


@dataclass(frozen=True)
class Budget(Selector):
    """As many layers as fit the device's limits and these, drawn at random among those that fit.

    `memory_mb` : of FEDn's client and ours together; `upload_mb` : of the update; `seconds` : of the training
    request. The lower of these and the device's own limits holds.
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
EARLIER_NAMES = {"dealt": "stratified"}  # of selectors, which cases and runs may still have
DRAWS = 400  # of ``probabilities``: the share of so many differs from the probability by 0.025 at most, in most cases


@dataclass(frozen=True)
class Selection:
    """The layers that a client trains in a round.

    Attributes
    ----------
    layers : in model order. context : that they were selected with.
    limited : why they are fewer than was asked for, or None.
    """

    layers: list[Layer]
    context: Context
    limited: str | None = None


def choose(selector: Selector, layers: list[Layer], context: Context, explain=lambda requested: "") -> Selection:
    """Return the selection of this client in this round (raises as ``select_layers``).

    Parameters
    ----------
    explain : function of the requested layers that returns which limits they exceed.
    """
    requested = requested_layers(selector, layers, context)
    selected = _within_limits(selector, requested, context)
    if len(selected) == len(requested):
        return Selection(selected, context)
    limited = f"{len(selected)} of the {len(requested)} layers asked for"
    reasons = explain(requested)
    return Selection(selected, context, f"{limited}: {reasons}" if reasons else limited)


def select_layers(selector: Selector, layers: list[Layer], context: Context) -> list[Layer]:
    """Return the layers that a client trains in this round, in model order.

    A warm-up round trains every layer. The device's own limits win over both: of the layers asked for, as many are
    kept as they allow: one drawn at random, so that each that fits at all gets its turn, then those always trained, if
    they fit beside it, then others at random.

    Raises
    ------
    FednPartialError : the selector names a layer that the model does not have.
    NothingFits : not one of the layers asked for fits the device.
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
        chosen = [first, *always] if _allowed([first, *always], context) else [first]
        for layer in order:
            if layer not in chosen and _allowed([*chosen, layer], context):
                chosen.append(layer)
        return [layer for layer in requested if layer in chosen]
    raise NothingFits(f"none of the {len(requested)} layers asked for fits the limits of this device")


def requested_layers(selector: Selector, layers: list[Layer], context: Context) -> list[Layer]:
    """Return the layers that a client is asked to train, in model order, whatever its limits."""
    with modules.calling(type(selector).select):
        chosen = selector.select(layers, context)  # also in warm-up, so that a wrong name is found in the first round
    return list(layers) if context.warmup else pick(layers, chosen)


def probabilities(selector: Selector, layers: list[Layer], context: Context) -> dict[str, float]:
    """Return how probable it was for each layer to be trained by this client in this round: {layer: above 0 to 1}.

    Counted over many draws of this client, with its limits, as if the round were each time another with the same
    participants and scores.
    """
    draws = [context, *(dataclasses.replace(context, seed=f"{context.seed}/{draw}") for draw in range(1, DRAWS))]
    counts = Counter(layer.name for draw in draws for layer in select_layers(selector, layers, draw))
    return {name: count / DRAWS for name, count in counts.items()}


def _allowed(chosen: list[Layer], context: Context) -> bool:
    if context.max_layers is not None and len(chosen) > context.max_layers:
        return False
    return context.fits is None or context.fits(chosen)


def from_dict(raw: dict, where: str = "selection") -> Selector:
    """Return the selector described by a `selection:` section: ``selector``, its name, and its fields.

    Raises
    ------
    SettingsError : unknown selector or field, wrong type, impossible value.
    UserCodeError : a custom selector that cannot be imported.
    """
    name = raw.get("selector")
    if names.is_custom(name):
        fields = {key: value for key, value in raw.items() if key != "selector"}
        return parse(names.find_class(name, Selector, f"{where}: selector"), fields, where)
    if name in list(EARLIER_NAMES):
        raw = {**raw, "selector": EARLIER_NAMES[name]}
    return parse_named(raw, "selector", SELECTORS, where)


def to_dict(selector: Selector) -> dict:
    """Return the selector as a `selection:` section of plain values; ``from_dict`` reads it back."""
    short = {cls: name for name, cls in SELECTORS.items()}
    name = short.get(type(selector)) or names.name_of(type(selector))
    fields = dataclasses.asdict(selector)
    return {"selector": name, **{k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}}
