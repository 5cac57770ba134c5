"""What training a selection will cost on this device, and whether that is within its limits.

Memory is predicted as what the processes hold once TensorFlow is imported (measured), plus what TensorFlow adds to
that in any request, plus weights, gradients and optimiser slots, plus the activations above the lowest trained
layer. Seconds are predicted from the last round's.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedn_partial.device import costs
from fedn_partial.runtime.atomic import write_text
from fedn_partial.settings.case import Training
from fedn_partial.settings.schema import bounded
from fedn_partial.submodel.layers import Layer
from fedn_partial.submodel.update_tensors import tensors_of, update_tensors

MB = 1e6
# Measured with the three models (see tests/benchmarks): the runtime, the traced graph and the kernels' scratch space;
# and the pages of a fork server that its child copies by writing to them.
RUNTIME_MB = 40.0
COPIED_MB = 36.0
# A killed attempt shows that what was predicted over the base does not fit; try this share of it next.
NEXT_SHARE = 0.75


@dataclass(frozen=True)
class Limits:
    """What a training request may cost, None where there is no limit. MB are 10**6 bytes.

    Attributes
    ----------
    memory_mb : anonymous memory of FEDn's client and of ours together.
    upload_mb : of the update.
    seconds : of the training request.
    """

    memory_mb: float | None = bounded(None, above=0)
    upload_mb: float | None = bounded(None, above=0)
    seconds: float | None = bounded(None, above=0)

    def and_(self, other: Limits) -> Limits:
        """Return the lower of both, limit by limit."""
        names = ("memory_mb", "upload_mb", "seconds")
        pairs = {name: [getattr(limits, name) for limits in (self, other)] for name in names}
        return Limits(**{name: min((v for v in pair if v is not None), default=None) for name, pair in pairs.items()})


@dataclass(frozen=True)
class Estimate:
    """What a selection costs. Seconds are None as long as no round was measured, memory where no base was."""

    memory_mb: float | None
    upload_mb: float
    seconds: float | None

    def within(self, limits: Limits) -> bool:
        """Whether no limit is exceeded. Unknown seconds count as too many where seconds are limited."""
        if limits.memory_mb is not None and self.memory_mb is not None and self.memory_mb > limits.memory_mb:
            return False
        if limits.upload_mb is not None and self.upload_mb > limits.upload_mb:
            return False
        return limits.seconds is None or (self.seconds is not None and self.seconds <= limits.seconds)


@dataclass(frozen=True)
class Planner:
    """Predicts the costs of selections for one model on one device.

    Attributes
    ----------
    base_mb : anonymous memory of FEDn's client and of ours once TensorFlow is imported (see ``monitor``), or None
        if this system does not tell.
    forked : whether the request runs in a child of the fork server.
    examples : training examples in a round, all epochs together.
    fixed_seconds, seconds_per_gmac : of an earlier round, or None.
    batchnorm_statistics : of the session, see ``fedn_partial.submodel.update_tensors``.
    """

    layers: list[Layer]
    training: Training
    codec: str
    base_mb: float | None
    forked: bool
    examples: int = 0
    fixed_seconds: float | None = None
    seconds_per_gmac: float | None = None
    batchnorm_statistics: str = "with_layer"

    def estimate(self, selected: list[Layer]) -> Estimate:
        """Return what training `selected` for one round costs."""
        memory = costs.state_bytes(self.layers, selected, self.training)
        # Frozen BatchNormalization that follows the batch keeps what goes into it, as if it were trained.
        follows = self.batchnorm_statistics != "with_layer"
        activations = costs.framework_activation_bytes if follows else costs.activation_bytes
        memory += activations(self.layers, selected, self.training.batch_size)
        parts = tensors_of(selected, update_tensors(self.layers, self.batchnorm_statistics))
        overhead = RUNTIME_MB + (COPIED_MB if self.forked else 0)
        return Estimate(
            memory_mb=None if self.base_mb is None else self.base_mb + overhead + memory / MB,
            upload_mb=costs.encoded_bytes(itertools.chain(*parts.values()), self.codec) / MB,
            seconds=self._seconds(selected),
        )

    def fits(self, selected: list[Layer], limits: Limits) -> bool:
        """Whether `selected` is within `limits`.

        A single layer always is within the seconds: it tells how fast the device is, and whether it still is so slow.
        """
        if len(selected) == 1:
            limits = replace(limits, seconds=None)
        return self.estimate(selected).within(limits)

    def gmacs(self, selected: list[Layer]) -> float:
        """Return the 10**9 multiply-accumulates of a round's training."""
        return self.examples * costs.training_macs(self.layers, selected) / 1e9

    def _seconds(self, selected: list[Layer]) -> float | None:
        if self.seconds_per_gmac is None or self.fixed_seconds is None:
            return None
        return self.fixed_seconds + self.seconds_per_gmac * self.gmacs(selected)


@dataclass(frozen=True)
class Calibration:
    """What a device learnt about itself with one model; kept in a file, so that a restart does not forget it.

    Attributes
    ----------
    memory_mb : more than this was killed for memory, or None.
    machine_mb : memory of the machine (or container) when that happened; with another one it is forgotten.
    fixed_seconds : of the last round, all but the training loop. seconds_per_gmac : of its training loop.
    """

    memory_mb: float | None = None
    machine_mb: float | None = None
    fixed_seconds: float | None = None
    seconds_per_gmac: float | None = None
    path: Path | None = field(default=None, compare=False)

    @classmethod
    def load(cls, folder: Path, fingerprint: str, machine_mb: float | None) -> Calibration:
        """Read what was kept in `folder` about a model; nothing is known if there is no such file, or no sound one."""
        path = folder / f"calibration-{fingerprint}.json"
        known = cls(path=path, machine_mb=machine_mb)
        try:
            raw = json.loads(path.read_text())
            values = {key: raw[key] for key in ("fixed_seconds", "seconds_per_gmac", "memory_mb", "machine_mb")}
            sound = all(value is None or 0 < value / 1 < math.inf for value in values.values())
        except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
            return known
        if not sound:
            return known
        if values["machine_mb"] != machine_mb:
            values["memory_mb"] = None
        return replace(known, **values | {"machine_mb": machine_mb})

    def keep(self, **changes) -> Calibration:
        """Return it with `changes`, and write it."""
        changed = replace(self, **changes)
        values = {key: value for key, value in vars(changed).items() if key != "path"}
        with contextlib.suppress(OSError):  # a full disk costs what was learnt, not the round
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps(values))
        return changed

    def after_kill(self, predicted_mb: float, base_mb: float) -> Calibration:
        """Return it with a lower memory limit, as a request predicted to take so much was killed; and write it."""
        return self.keep(memory_mb=base_mb + NEXT_SHARE * (predicted_mb - base_mb))
