"""Selection of layers within the limits of this device.

The limits come from client.yaml, the session (selector `budget`), the available memory, and earlier out-of-memory
kills; the lowest applies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fedn_partial.device import cgroup, oom_marker
from fedn_partial.device.planner import MB, Calibration, Estimate, Limits, Planner
from fedn_partial.errors import FednPartialError
from fedn_partial.submodel import selection
from fedn_partial.submodel.layers import Layer

# Bytes of program code that must stay in memory: file-backed, so not in the predictions of anonymous memory.
HOT_FILES = 30e6


@dataclass(frozen=True)
class Choice:
    """A selection within this device's limits.

    Attributes
    ----------
    predicted_mb : predicted memory, or None if this system does not report the memory of processes.
    """

    selection: selection.Selection
    predicted_mb: float | None
    planner: Planner
    calibration: Calibration

    def write_oom_marker(self) -> None:
        """Write a marker that survives an out-of-memory kill."""
        if self.predicted_mb is not None:
            layers = len(self.selection.layers)
            oom_marker.write(oom_marker.OomMarker(layers, self.predicted_mb, self.planner.base_mb))

    def calibrate(self, seconds: float, train_seconds: float) -> None:
        """Update the calibration from a request of `seconds`, including `train_seconds` in the training loop."""
        per_gmac = train_seconds / self.planner.gmacs(self.selection.layers)
        self.calibration.save(fixed_seconds=max(seconds - train_seconds, 1e-3), seconds_per_gmac=per_gmac)


def select_within_limits(
    device, settings, context: selection.Context, planner: Planner, free_bytes: int | None
) -> Choice:
    """Select the layers to train in this round within the limits of this device.

    Parameters
    ----------
    device, settings : see fedn_partial.settings.case. context : without ``fits``.
    planner : without the calibration.
    free_bytes : available memory when the planner's base was measured, or None.

    Raises
    ------
    FednPartialError : no layer is within the limits; the message has the prediction and the limit.
    """
    calibration = _calibration(device, settings)
    if calibration.memory_mb is not None and planner.base_mb is not None:
        # A kill caused by another program must not exclude the cheapest layer permanently.
        cheapest = min(planner.estimate([layer]).memory_mb for layer in planner.layers)
        calibration = replace(calibration, memory_mb=max(calibration.memory_mb, cheapest))
    planner = replace(planner, fixed_seconds=calibration.fixed_seconds, seconds_per_gmac=calibration.seconds_per_gmac)
    selector = selection.from_dict(settings.selection)
    limits = _limits(device, selector, calibration, planner.base_mb, free_bytes)
    context = replace(context, fits=lambda layers: planner.fits(layers, limits))

    def explain(requested: list[Layer]) -> str:
        reasons = [_exceeded(planner.estimate(requested), limits, calibration)]
        if context.max_layers is not None and len(requested) > context.max_layers:
            reasons.append(f"max_layers is {context.max_layers}")
        return ", ".join(filter(None, reasons))

    try:
        selected = selection.select(selector, planner.layers, context, explain)
    except selection.NothingFits as error:
        requested = selection.requested_layers(selector, planner.layers, context)
        costs = [planner.estimate([layer]) for layer in requested]
        cheapest = min(costs, key=lambda cost: (cost.memory_mb or 0, cost.upload_mb))
        raise FednPartialError(f"{error}; the cheapest layer: {_exceeded(cheapest, limits, calibration)}") from None
    predicted = planner.estimate(selected.layers).memory_mb
    return Choice(selected, None if predicted is None else round(predicted, 2), planner, calibration)


def _calibration(device, settings) -> Calibration:
    """Return this device's calibration, updated by a request that was just killed for memory."""
    machine = cgroup.machine_memory()
    calibration = Calibration.load(
        device.state_folder, settings.fingerprint, machine and machine / MB, earlier_folder=Path(device.workdir)
    )
    killed = oom_marker.take_killed()
    return calibration.after_kill(killed.predicted_mb, killed.base_mb) if killed else calibration


def _limits(device, selector, calibration: Calibration, base_mb: float | None, free_bytes: int | None) -> Limits:
    limits = Limits(device.memory_mb, device.upload_mb, device.round_seconds)
    if isinstance(selector, selection.Budget):
        limits = limits.and_(Limits(selector.memory_mb, selector.upload_mb, selector.seconds))
    if base_mb is not None and free_bytes is not None:
        limits = limits.and_(Limits(memory_mb=max(base_mb + (free_bytes - HOT_FILES) / MB, 1.0)))
    return limits.and_(Limits(memory_mb=calibration.memory_mb))


def _exceeded(estimate: Estimate, limits: Limits, calibration: Calibration) -> str:
    """Return a description of the limits that the estimate exceeds."""
    reasons = [
        f"{quantity} {predicted:.1f} {unit} predicted, {limit:.1f} allowed"
        for quantity, predicted, limit, unit in (
            ("memory", estimate.memory_mb, limits.memory_mb, "MB"),
            ("upload", estimate.upload_mb, limits.upload_mb, "MB"),
            ("time", estimate.seconds, limits.seconds, "s"),
        )
        if predicted is not None and limit is not None and predicted > limit
    ]
    if reasons and limits.memory_mb is not None and limits.memory_mb == calibration.memory_mb:
        reasons.append("lowered after an out-of-memory kill")
    if limits.seconds is not None and estimate.seconds is None:
        reasons.append(f"time {limits.seconds:.1f} s allowed, prediction unavailable before the first round")
    return ", ".join(reasons)
