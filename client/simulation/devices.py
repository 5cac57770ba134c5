"""How long a simulated round takes: T = download + local training + upload of each client, and the slowest counts.

FEDn has the clients test the new model while the next round begins, so that is not in it.
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
    """What is known of a simulated client's machine.

    Attributes
    ----------
    fixed_seconds : of a training request, beside the training loop.
    layers, example_seconds, ram : numbers of layers that were measured, the seconds that one example then takes in one
        epoch, and the memory in use in 10**6 bytes. Between and beyond them lie straight lines.
    max_layers : more than these do not fit its memory, or None.
    upload_mbit, download_mbit : 10**6 bits a second, or None if bytes take no time.
    """

    fixed_seconds: float
    layers: tuple[int, ...]
    example_seconds: tuple[float, ...]
    ram: tuple[float | None, ...]
    max_layers: int | None
    upload_mbit: float | None
    download_mbit: float | None

    def seconds(self, layers: int, examples: int, upload_bytes: int, download_bytes: int) -> tuple[float, float]:
        """Return how long a client takes, from the request to the end of its upload, and its training loop's part.

        Parameters
        ----------
        layers : trained. examples : of all epochs together.
        """
        training = examples * _line(layers, self.layers, self.example_seconds)
        transfer = _transfer(download_bytes, self.download_mbit) + _transfer(upload_bytes, self.upload_mbit)
        return self.fixed_seconds + training + transfer, training

    def ram_mb(self, layers: int) -> float | None:
        """Return the memory in use when so many layers are trained, or None if it was not measured."""
        return None if None in self.ram else round(_line(layers, self.layers, self.ram), 1)


def devices(case: Case) -> list[DeviceTiming]:
    """Return the devices that `case` names; client number k has the k-th of them, and so on in turn.

    Raises
    ------
    FednPartialError : a profile that cannot be read, or that has no figures of the flavour.
    """
    return [_device(device, case) for device in case.simulation.devices]


def chance(case: Case, round_number: int, client: str, purpose: str) -> float:
    """Return a number from 0 to 1, equal for equal seed, round, client and purpose."""
    return random.Random(f"{case.seed}/{round_number}/{client}/{purpose}").random()


def _device(device: SimulatedDevice, case: Case) -> DeviceTiming:
    _, profiles = load([Path(device.profile)])
    if not profiles:
        raise FednPartialError(f"simulation: devices: {device.profile} is the folder of a run, not of a profile")
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
            f"simulation: devices: {device.profile} has figures of {device.flavour} for {len(measured)} numbers of "
            "layers; at least two are needed to estimate the others"
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


def _line(x: float, xs: tuple[float, ...], ys: tuple[float, ...]) -> float:
    """Return y at `x` on the straight lines through the points, the outer ones made longer."""
    place = min(max(int(np.searchsorted(xs, x)), 1), len(xs) - 1)
    slope = (ys[place] - ys[place - 1]) / (xs[place] - xs[place - 1])
    return float(ys[place - 1] + slope * (x - xs[place - 1]))
