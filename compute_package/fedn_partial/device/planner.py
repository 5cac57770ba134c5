"""Prediction of the costs of training a selection on this device.

Predicted memory is the sum of the processes' memory after the import of TensorFlow (measured), TensorFlow's overhead in
any request, weights, gradients, optimiser slots and state of step terms, and the activations from the lowest trained
layer on. Predicted seconds scale with the operations of the last round.
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
from fedn_partial.training.terms.base import StepTerm

MB = 1e6
# Measured with the three models (see tests/benchmarks): the runtime, the traced graph and the kernels' scratch space;
# and the fork server's pages that its child copies on write.
RUNTIME_MB = 40.0
COPIED_MB = 36.0
# Share of the predicted memory above the base that is allowed after an out-of-memory kill.
NEXT_SHARE = 0.75


@dataclass(frozen=True)
class Limits:
    """Limits of a training request, None for no limit. MB are 10**6 bytes.

    Attributes
    ----------
    memory_mb : anonymous memory of FEDn's client and the compute package together.
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
    """Predicted costs of a selection. Seconds are None before the first measured round, memory without a base."""

    memory_mb: float | None
    upload_mb: float
    seconds: float | None

    def within(self, limits: Limits) -> bool:
        """Return whether no limit is exceeded. Unknown seconds exceed any limit of seconds."""
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
    base_mb : anonymous memory of FEDn's client and the compute package after the import of TensorFlow (see
        ``monitor``), or None if unknown.
    forked : whether the request runs in a child of the fork server.
    examples : training examples in a round, all epochs together.
    fixed_seconds, seconds_per_gmac : of an earlier round, or None.
    batchnorm_statistics : of the session, see ``fedn_partial.submodel.update_tensors``.
    terms : of the training step.
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
    terms: tuple[StepTerm, ...] = ()

    def estimate(self, selected: list[Layer]) -> Estimate:
        """Return the predicted costs of training `selected` for one round."""
        memory = costs.state_bytes(self.layers, selected, self.training, self.terms)
        # Frozen BatchNormalization in training mode stores its input, as a trained one does.
        training_mode = self.batchnorm_statistics != "with_layer"
        activations = costs.framework_activation_bytes if training_mode else costs.activation_bytes
        memory += activations(self.layers, selected, self.training.batch_size)
        sent = tensors_of(selected, update_tensors(self.layers, self.batchnorm_statistics))
        overhead = RUNTIME_MB + (COPIED_MB if self.forked else 0)
        return Estimate(
            memory_mb=None if self.base_mb is None else self.base_mb + overhead + memory / MB,
            upload_mb=costs.encoded_bytes(itertools.chain(*sent.values()), self.codec) / MB,
            seconds=self._seconds(selected),
        )

    def fits(self, selected: list[Layer], limits: Limits) -> bool:
        """Return whether `selected` is within `limits`.

        The seconds of a single layer are not limited, so that the device's speed is measured in every round.
        """
        if len(selected) == 1:
            limits = replace(limits, seconds=None)
        return self.estimate(selected).within(limits)

    def gmacs(self, selected: list[Layer]) -> float:
        """Return the multiply-accumulates of a round's training in units of 10**9."""
        return self.examples * costs.training_macs(self.layers, selected) / 1e9

    def _seconds(self, selected: list[Layer]) -> float | None:
        if self.seconds_per_gmac is None or self.fixed_seconds is None:
            return None
        return self.fixed_seconds + self.seconds_per_gmac * self.gmacs(selected)


@dataclass(frozen=True)
class Calibration:
    """Calibration of the predictions for one model on this device, saved in a file.

    Attributes
    ----------
    memory_mb : memory limit after an out-of-memory kill, or None.
    machine_mb : memory of the machine (or container) then; if it changes, the limit is removed.
    fixed_seconds : of the last round, without the training loop. seconds_per_gmac : of its training loop.
    path : of the file. earlier_path : of an earlier version's file, which the next ``save`` removes; or None.
    """

    memory_mb: float | None = None
    machine_mb: float | None = None
    fixed_seconds: float | None = None
    seconds_per_gmac: float | None = None
    path: Path | None = field(default=None, compare=False)
    earlier_path: Path | None = field(default=None, compare=False)

    @classmethod
    def load(
        cls, folder: Path, fingerprint: str, machine_mb: float | None, earlier_folder: Path | None = None
    ) -> Calibration:
        """Read a model's calibration from `folder`; return an empty one if it is missing or damaged.

        A calibration that is missing is read from `earlier_folder`, where earlier versions saved it.
        """
        name = f"calibration-{fingerprint}.json"
        path, earlier_path = folder / name, earlier_folder and earlier_folder / name
        empty = cls(path=path, earlier_path=earlier_path, machine_mb=machine_mb)
        try:
            raw = json.loads((earlier_path if earlier_path and not path.exists() else path).read_text())
            values = {key: raw[key] for key in ("fixed_seconds", "seconds_per_gmac", "memory_mb", "machine_mb")}
            valid = all(value is None or 0 < value / 1 < math.inf for value in values.values())
        except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
            return empty
        if not valid:
            return empty
        if values["machine_mb"] != machine_mb:
            values["memory_mb"] = None
        return replace(empty, **values | {"machine_mb": machine_mb})

    def save(self, **changes) -> Calibration:
        """Save and return the calibration with `changes`."""
        changed = replace(self, **changes)
        values = {key: value for key, value in vars(changed).items() if key not in ("path", "earlier_path")}
        with contextlib.suppress(OSError):  # a full disk costs the calibration, not the round
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps(values))
            if self.earlier_path is not None:
                self.earlier_path.unlink(missing_ok=True)
        return changed

    def after_kill(self, predicted_mb: float, base_mb: float) -> Calibration:
        """Save and return the calibration with a lower memory limit, after the kill of a request predicted so."""
        return self.save(memory_mb=base_mb + NEXT_SHARE * (predicted_mb - base_mb))
