"""Timing of simulated devices, estimated from profiles.

A client takes T = download + local training + upload; the slowest client determines the duration of the round. Tests
of the new model are excluded, as with FEDn they overlap with the next round.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedn_partial.client.records.load import load
from fedn_partial.errors import FednPartialError
from fedn_partial.settings.case import Case, SimulatedDevice


@dataclass(frozen=True)
class DeviceTiming:
    """Timing and memory of one simulated device.

    Attributes
    ----------
    fixed_seconds : duration of a training request without the training loop.
    layers : measured numbers of layers, ascending.
    example_seconds, ram : for each of `layers`, the seconds per example and epoch, and the memory in use in 10**6
        bytes. Other numbers of layers are interpolated or extrapolated linearly.
    max_layers : largest number of layers that fits the memory, or None if there is no limit.
    upload_mbit, download_mbit : bandwidth in 10**6 bits per second, or None if transfers take no time.
    """

    fixed_seconds: float
    layers: tuple[int, ...]
    example_seconds: tuple[float, ...]
    ram: tuple[float | None, ...]
    max_layers: int | None
    upload_mbit: float | None
    download_mbit: float | None

    def seconds(self, layers: int, examples: int, upload_bytes: int, download_bytes: int) -> tuple[float, float]:
        """Return the seconds from the request to the end of the upload, and those of the training loop.

        Parameters
        ----------
        layers : number of layers trained.
        examples : number of training examples, summed over epochs.
        """
        training = examples * _interpolate(layers, self.layers, self.example_seconds)
        transfer = _transfer(download_bytes, self.download_mbit) + _transfer(upload_bytes, self.upload_mbit)
        return self.fixed_seconds + training + transfer, training

    def ram_mb(self, layers: int) -> float | None:
        """Return the memory in use in 10**6 bytes when training `layers` layers, or None if it was not measured."""
        return None if None in self.ram else round(_interpolate(layers, self.layers, self.ram), 1)


def device_timings(case: Case) -> list[DeviceTiming]:
    """Return the timings of the devices of `case`, which are assigned to the clients cyclically.

    Raises
    ------
    FednPartialError : a profile cannot be read, or has no measurements of the flavour.
    """
    return [_timing(device, case) for device in case.simulation.devices]


def uniform(case: Case, round_number: int, client: str, purpose: str) -> float:
    """Return a pseudo-random number in [0, 1) that depends only on seed, round, client and purpose."""
    return random.Random(f"{case.seed}/{round_number}/{client}/{purpose}").random()


def _timing(device: SimulatedDevice, case: Case) -> DeviceTiming:
    _, profiles = load([Path(device.profile)])
    if not profiles:
        raise FednPartialError(f"simulation: devices: {device.profile} is a run folder, not a profile folder")
    profile = profiles[0]
    if profile.setting("model") != case.model:
        raise FednPartialError(
            f"simulation: devices: {device.profile} is a profile of model {profile.setting('model')}, not {case.model}"
        )
    cells = sorted((cell for cell in profile.cells if cell.flavour == device.flavour), key=lambda cell: cell.layers)
    if not cells:
        flavours = ", ".join(dict.fromkeys(cell.flavour for cell in profile.cells))
        raise FednPartialError(
            f"simulation: devices: {device.profile} has no flavour {device.flavour!r}; it has {flavours}"
        )
    differing = [
        f"{key} {profile.setting('training', key)}, not {value}"
        for key, value in (("batch_size", case.training.batch_size), ("optimizer", case.training.optimizer))
        if profile.setting("training", key) not in (None, value)
    ]
    if differing:
        raise FednPartialError(f"simulation: devices: {device.profile} was measured with {', '.join(differing)}")
    measured = [cell for cell in cells if cell.seconds is not None and not cell.limited]
    examples = profile.content.get("examples")
    if len(measured) < 2 or not isinstance(examples, int):
        raise FednPartialError(
            f"simulation: devices: {device.profile} has measurements of {device.flavour} for {len(measured)} numbers "
            "of layers; at least two are required for interpolation"
        )
    epochs = profile.setting("training", "epochs") or 1
    killed = [cell.layers for cell in cells if cell.killed]
    fits = [cell.layers for cell in measured if not killed or cell.layers < min(killed)]
    fixed = [cell.round_seconds - cell.seconds for cell in measured if cell.round_seconds is not None]
    return DeviceTiming(
        fixed_seconds=max(0.0, sum(fixed) / len(fixed)) if fixed else 0.0,
        layers=tuple(cell.layers for cell in measured),
        example_seconds=tuple(cell.seconds / (examples * epochs) for cell in measured),
        ram=tuple(cell.ram_mb for cell in measured),
        max_layers=max(fits, default=1) if killed else None,
        upload_mbit=device.upload_mbit,
        download_mbit=device.download_mbit,
    )


def _transfer(count: int, mbit: float | None) -> float:
    return 0.0 if mbit is None else count * 8 / (mbit * 1e6)


def _interpolate(x: float, xs: tuple[float, ...], ys: tuple[float, ...]) -> float:
    """Return y at `x` by piecewise linear interpolation, extrapolated beyond the outer points."""
    index = min(max(int(np.searchsorted(xs, x)), 1), len(xs) - 1)
    slope = (ys[index] - ys[index - 1]) / (xs[index] - xs[index - 1])
    return float(ys[index - 1] + slope * (x - xs[index - 1]))
