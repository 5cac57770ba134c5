"""Residuals of error feedback in files, for tests of the encoding without a client's state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Residual:
    """The residual of one tensor, stored in the file `path`."""

    path: Path

    def load(self, shape: tuple[int, ...]) -> np.ndarray | np.float32:
        return np.load(self.path).reshape(shape) if self.path.exists() else np.float32(0)

    def save(self, residual: np.ndarray) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        np.save(self.path, residual)


def residuals(folder: Path, client: str, tensors) -> list[Residual]:
    """Return the residuals of a client's tensors, stored below `folder`."""
    return [Residual(folder / client / f"{tensor.index}.npy") for tensor in tensors]
