"""Which of the layers that the server asks for this device trains: as many as its limits allow.

The limits come from its owner (client.yaml), from the session (selector `budget`), from the memory that is free,
and from what the kernel once killed; the lowest holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fedn_partial.device import cgroup, oom_marker
from fedn_partial.device.planner import MB, Estimate, Experience, Limits, Planner
from fedn_partial.errors import FednPartialError
from fedn_partial.submodel import selection
from fedn_partial.submodel.layers import Layer

# Bytes of the programs' own code that must stay in memory for them to run: not anonymous, so not in the predictions.
HOT_FILES = 30e6


@dataclass(frozen=True)
class Choice:
    """The layers that are trained in a round.

    Attributes
    ----------
    selected : these layers, in model order.
    limited : why they are fewer than was asked for, or None.
    predicted_mb : of memory, or None if this system does not tell what processes hold.
    context : that they were chosen with.
    """

    selected: list[Layer]
    limited: str | None
    predicted_mb: float | None
    context: selection.Context
    planner: Planner
    experience: Experience

    def begin(self) -> None:
        """Note that training begins, in case it is killed for memory."""
        if self.predicted_mb is not None:
            oom_marker.begin(oom_marker.Attempt(len(self.selected), self.predicted_mb, self.planner.base_mb))

    def learn(self, seconds: float, train_seconds: float) -> None:
        """Keep what a request that took `seconds`, `train_seconds` of them in the training loop, says of the device."""
        per_gmac = train_seconds / self.planner.gmacs(self.selected)
        self.experience.keep(fixed_seconds=max(seconds - train_seconds, 1e-3), seconds_per_gmac=per_gmac)


def choose(device, instructions, context: selection.Context, planner: Planner, free_bytes: int | None) -> Choice:
    """Return the layers to train in this round.

    Parameters
    ----------
    device, instructions : see fedn_partial.settings.case. context : without ``fits``.
    planner : without what is known from earlier rounds.
    free_bytes : of memory when the planner's base was measured, or None.

    Raises
    ------
    FednPartialError : not one layer is within the limits; the message says by how much.
    """
    experience = _experience(device, instructions)
    if experience.memory_mb is not None and planner.base_mb is not None:
        # What was killed once, perhaps for another program's sake, must not keep the cheapest layer out for ever.
        cheapest = min(planner.estimate([layer]).memory_mb for layer in planner.table)
        experience = replace(experience, memory_mb=max(experience.memory_mb, cheapest))
    planner = replace(planner, fixed_seconds=experience.fixed_seconds, seconds_per_gmac=experience.seconds_per_gmac)
    selector = selection.from_dict(instructions.selection)
    limits = _limits(device, selector, experience, planner.base_mb, free_bytes)
    context = replace(context, fits=lambda layers: planner.fits(layers, limits))
    asked = selection.ask(selector, planner.table, context)
    try:
        selected = selection.choose(selector, planner.table, context)
    except selection.NothingFits as error:
        costs = [planner.estimate([layer]) for layer in asked]
        cheapest = min(costs, key=lambda cost: (cost.memory_mb or 0, cost.upload_mb))
        raise FednPartialError(f"{error}; the cheapest: {_exceeded(cheapest, limits, experience)}") from None
    limited = None
    if len(selected) < len(asked):
        reasons = [_exceeded(planner.estimate(asked), limits, experience)]
        if context.max_layers is not None and len(asked) > context.max_layers:
            reasons.append(f"max_layers is {context.max_layers}")
        limited = f"{len(selected)} of the {len(asked)} layers asked for: {', '.join(filter(None, reasons))}"
    predicted = planner.estimate(selected).memory_mb
    return Choice(selected, limited, None if predicted is None else round(predicted, 2), context, planner, experience)


def _experience(device, instructions) -> Experience:
    """Return what this device knows of itself, an attempt that was killed just now included."""
    machine = cgroup.machine_memory()
    known = Experience.load(Path(device.workdir), instructions.fingerprint, machine and machine / MB)
    killed = oom_marker.take_killed()
    return known.after_kill(killed.predicted_mb, killed.base_mb) if killed else known


def _limits(device, selector, experience: Experience, base_mb: float | None, free_bytes: int | None) -> Limits:
    limits = Limits(device.memory_mb, device.upload_mb, device.round_seconds)
    if isinstance(selector, selection.Budget):
        limits = limits.and_(Limits(selector.memory_mb, selector.upload_mb, selector.seconds))
    if base_mb is not None and free_bytes is not None:
        limits = limits.and_(Limits(memory_mb=max(base_mb + (free_bytes - HOT_FILES) / MB, 1.0)))
    return limits.and_(Limits(memory_mb=experience.memory_mb))


def _exceeded(estimate: Estimate, limits: Limits, experience: Experience) -> str:
    """Return in words which of the limits the estimate exceeds."""
    reasons = [
        f"{what} {predicted:.1f} {unit} predicted, {limit:.1f} allowed"
        for what, predicted, limit, unit in (
            ("memory", estimate.memory_mb, limits.memory_mb, "MB"),
            ("upload", estimate.upload_mb, limits.upload_mb, "MB"),
            ("time", estimate.seconds, limits.seconds, "s"),
        )
        if predicted is not None and limit is not None and predicted > limit
    ]
    if reasons and limits.memory_mb is not None and limits.memory_mb == experience.memory_mb:
        reasons.append("since more was killed for memory")
    if limits.seconds is not None and estimate.seconds is None:
        reasons.append(f"{limits.seconds:.1f} s allowed, and how fast this device is will be known after this round")
    return ", ".join(reasons)
