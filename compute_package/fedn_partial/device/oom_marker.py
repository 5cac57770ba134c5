"""A marker that survives an out-of-memory kill of a training request. Standard library only.

A request writes it before training. After a kill, the waiting entry point confirms it and retries the request, which
reads it and selects fewer layers. It is stored in the compute package's folder, the current folder, and not in the
device's state (``fedn_partial.runtime.client_state``): the entry point does not read client.yaml, which names the
working folder.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from dataclasses import asdict, dataclass

from fedn_partial.runtime.atomic import write_text

_TRAINING = ".state/training.json"
_KILLED = ".state/killed.json"


@dataclass(frozen=True)
class OomMarker:
    """The predicted memory of a training request.

    Attributes
    ----------
    layers : number of layers to train.
    predicted_mb : predicted memory. base_mb : its part after the import of TensorFlow.
    """

    layers: int
    predicted_mb: float
    base_mb: float


def write(marker: OomMarker) -> None:
    """Write the marker of a request that begins to train."""
    with contextlib.suppress(OSError):
        write_text(_TRAINING, json.dumps(asdict(marker)), durable=False)


def clear() -> None:
    """Remove the marker of an earlier request."""
    with contextlib.suppress(OSError):
        os.unlink(_TRAINING)


def confirm_kill() -> OomMarker | None:
    """Save and return the marker of a killed request, or None if the request had not begun to train."""
    with contextlib.suppress(OSError):
        os.replace(_TRAINING, _KILLED)
        return _read()
    return None


def take_killed() -> OomMarker | None:
    """Remove and return the marker of the killed request, or None."""
    marker = _read()
    with contextlib.suppress(OSError):
        os.unlink(_KILLED)
    return marker


def _read() -> OomMarker | None:
    try:
        with open(_KILLED) as file:
            raw = json.load(file)
        marker = OomMarker(int(raw["layers"]), float(raw["predicted_mb"]), float(raw["base_mb"]))
    except (OSError, ValueError, TypeError, LookupError, OverflowError, RecursionError):
        return None
    return marker if math.isfinite(marker.predicted_mb) and math.isfinite(marker.base_mb) else None
