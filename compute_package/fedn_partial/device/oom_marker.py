"""What a training request notes before it trains, in case the kernel kills it for memory. Standard library only.

The process that waits for the request finds the note, and has the request tried again; that reads the note and
knows what not to try. The note lies in the compute package's folder, which is the current one.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from dataclasses import asdict, dataclass

from fedn_partial.runtime.atomic import write_text

_BEGUN = ".state/attempt.json"
_KILLED = ".state/killed.json"


@dataclass(frozen=True)
class Attempt:
    """`layers` were to be trained, and `predicted_mb` of memory to be taken, `base_mb` of it by TensorFlow's import."""

    layers: int
    predicted_mb: float
    base_mb: float


def begin(attempt: Attempt) -> None:
    """Note that training begins."""
    with contextlib.suppress(OSError):
        write_text(_BEGUN, json.dumps(asdict(attempt)), durable=False)


def forget() -> None:
    """Remove the note of an earlier request."""
    with contextlib.suppress(OSError):
        os.unlink(_BEGUN)


def was_killed() -> Attempt | None:
    """Mark the begun attempt as killed and return it, or None if none had begun."""
    with contextlib.suppress(OSError):
        os.replace(_BEGUN, _KILLED)
        return _read()
    return None


def take_killed() -> Attempt | None:
    """Return the attempt that was killed, once, or None."""
    found = _read()
    with contextlib.suppress(OSError):
        os.unlink(_KILLED)
    return found


def _read() -> Attempt | None:
    try:
        with open(_KILLED) as file:
            raw = json.load(file)
        found = Attempt(int(raw["layers"]), float(raw["predicted_mb"]), float(raw["base_mb"]))
    except (OSError, ValueError, TypeError, LookupError, OverflowError, RecursionError):
        return None
    return found if math.isfinite(found.predicted_mb) and math.isfinite(found.base_mb) else None
