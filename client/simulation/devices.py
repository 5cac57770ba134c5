"""How long a simulated round takes: T = download + local training + upload of each client, and the slowest counts."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedn_partial.client.report.load import load
from fedn_partial.errors import FednPartialError
from fedn_partial.settings import Case, SimulatedDevice


@dataclass(frozen=True)
class Device:
    """What is known of a simulated client's machine.

    Attributes
    ----------
    fixed_seconds : of a training request, beside the training loop.
    layers, example_seconds : numbers of layers that were measured, and the seconds that one example then takes in one
        epoch. Between them is interpolated.
    max_layers : more than these do not fit its memory, or None.
    upload_mbit, download_mbit : 10**6 bits a second, or None if bytes take no time.
    """

    fixed_seconds: float
    layers: tuple[int, ...]
    example_seconds: tuple[float, ...]
    max_layers: int | None
    upload_mbit: float | None
    download_mbit: float | None

    def seconds(self, layers: int, examples: int, upload_bytes: int, download_bytes: int) -> tuple[float, float]:
        """Return how long a client takes, from the request to the end of its upload, and its training loop's part.

        Parameters
        ----------
        layers : trained. examples : of all epochs together.
        """
        training = examples * float(np.interp(layers, self.layers, self.example_seconds))
        transfer = _transfer(download_bytes, self.download_mbit) + _transfer(upload_bytes, self.upload_mbit)
        return self.fixed_seconds + training + transfer, training


def devices(case: Case) -> list[Device]:
    """Return the devices that `case` names; client number k has the k-th of them, and so on in turn.

    Raises
    ------
    FednPartialError : a profile that cannot be read, or that has no figures of the flavour.
    """
    return [_device(told, case) for told in case.simulation.devices]


def chance(case: Case, round_number: int, client: str, purpose: str) -> float:
    """Return a number from 0 to 1, equal for equal seed, round, client and purpose."""
    return random.Random(f"{case.seed}/{round_number}/{client}/{purpose}").random()


def _device(told: SimulatedDevice, case: Case) -> Device:
    _, profiles = load([Path(told.profile)])
    if not profiles:
        raise FednPartialError(f"simulation: devices: {told.profile} is the folder of a run, not of a profile")
    profile = profiles[0]
    if profile.setting("model") != case.model:
        raise FednPartialError(
            f"simulation: devices: {told.profile} is a profile of model {profile.setting('model')}, not {case.model}"
        )
    cells = sorted((cell for cell in profile.cells if cell.flavour == told.flavour), key=lambda cell: cell.layers)
    if not cells:
        known = ", ".join(dict.fromkeys(cell.flavour for cell in profile.cells))
        raise FednPartialError(f"simulation: devices: {told.profile} has no flavour {told.flavour!r}; it has {known}")
    measured = [cell for cell in cells if cell.seconds is not None]
    examples = profile.content.get("examples")
    if not measured or not isinstance(examples, int):
        raise FednPartialError(f"simulation: devices: {told.profile}: nothing was measured of {told.flavour}")
    epochs = profile.setting("training", "epochs") or 1
    killed = [cell.layers for cell in cells if cell.killed]
    fits = [cell.layers for cell in measured if not killed or cell.layers < min(killed)]
    fixed = [cell.round_seconds - cell.seconds for cell in measured if cell.round_seconds is not None]
    return Device(
        fixed_seconds=max(0.0, sum(fixed) / len(fixed)) if fixed else 0.0,
        layers=tuple(cell.layers for cell in measured),
        example_seconds=tuple(cell.seconds / (examples * epochs) for cell in measured),
        max_layers=max(fits, default=1) if killed else None,
        upload_mbit=told.upload_mbit,
        download_mbit=told.download_mbit,
    )


def _transfer(count: int, mbit: float | None) -> float:
    return 0.0 if mbit is None else count * 8 / (mbit * 1e6)
