"""Device-specific moving statistics of BatchNormalization (SiloBN, Andreux et al. 2020)."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from fedn_partial.log import log
from fedn_partial.runtime.atomic import write_atomically
from fedn_partial.submodel.layers import Layer, tensor_list


def load(model, layers: list[Layer], folder: Path, session: str) -> None:
    """Assign the session's statistics saved in `folder`, if any, to `model`."""
    statistics = _statistics(layers)
    with contextlib.suppress(OSError, ValueError, EOFError, LookupError):  # missing or damaged
        saved = np.load(folder / f"{session}.npy", allow_pickle=False)
        sizes = [tensor.size for tensor in statistics]
        if saved.dtype == np.float32 and saved.shape == (sum(sizes),) and np.isfinite(saved).all():
            for tensor, values in zip(statistics, np.split(saved, np.cumsum(sizes)[:-1]), strict=True):
                model.weights[tensor.index].assign(values.reshape(tensor.shape))


def save(model, layers: list[Layer], folder: Path, session: str) -> None:
    """Save the statistics of `model` in `folder`; remove those of other sessions."""
    values = [np.asarray(model.weights[tensor.index]).reshape(-1) for tensor in _statistics(layers)]
    if not values:
        return
    path = folder / f"{session}.npy"
    try:
        for other in folder.glob("*"):
            if other != path:
                other.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        with write_atomically(path, durable=False) as file:
            np.save(file, np.concatenate(values))
    except OSError as error:  # a full disk costs precision, not the round
        log(f"cannot save this device's BatchNormalization statistics: {error}")


def _statistics(layers: list[Layer]) -> list:
    return [tensor for tensor in tensor_list(layers) if tensor.statistic]
