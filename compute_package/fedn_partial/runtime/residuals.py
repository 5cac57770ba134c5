"""Residuals of error feedback: the rounding errors of the changes that this device sent."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedn_partial.log import log
from fedn_partial.runtime.atomic import write_atomically


@dataclass(frozen=True)
class Residual:
    """The residual of one tensor, stored in the file `path`."""

    path: Path

    def load(self, shape: tuple[int, ...]) -> np.ndarray | float:
        """Return the residual as an array of `shape`, or zero if it is missing or damaged."""
        try:
            residual = np.load(self.path, allow_pickle=False)
        except (OSError, ValueError, EOFError):  # missing or damaged
            return np.float32(0)
        fits = residual.shape == shape and residual.dtype == np.float32 and np.isfinite(residual).all()
        return residual if fits else np.float32(0)

    def save(self, residual: np.ndarray) -> None:
        """Replace the stored residual."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with write_atomically(self.path, durable=False) as file:
                np.save(file, residual)
        except OSError as error:  # a full disk costs precision, not the round
            with contextlib.suppress(OSError):  # the previous one was already sent
                self.path.unlink()
            log(f"cannot save the residual of the update: {error}")


def residuals(folder: Path, session: str, tensors) -> list[Residual]:
    """Return the residuals of `tensors` in a session, stored below `folder`; remove those of other sessions."""
    for other in folder.glob("*"):
        if other.name != session:
            shutil.rmtree(other, ignore_errors=True)
    return [Residual(folder / session / f"{tensor.index}.npy") for tensor in tensors]
