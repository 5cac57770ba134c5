"""Checks of an update by the server: whether it belongs to this round, and can be merged."""

from __future__ import annotations

import numpy as np

from .aggregation import second_moment
from .decoding import decode

# More examples than a device could train on in a round; such a number would drown every other client.
MAX_EXAMPLES = 10_000_000
FLOAT32_MAX = np.finfo(np.float32).max


def check_update(arrays, metadata, model, settings, state):
    """Return an update's number of examples and its tensors {layer: arrays}.

    Parameters
    ----------
    arrays, metadata : as FEDn's hooks hand them over.
    model : the global model of the round. settings, state : of the session.

    Raises
    ------
    ValueError : the update must be skipped; the message says why.
    """
    client = settings["client"]
    base = {name: [model[index] for index in indices] for name, indices in settings["indices"].items()}
    shapes = {name: [array.shape for array in tensors] for name, tensors in base.items()}
    tensors = decode(arrays, metadata, settings["fingerprint"], client["codec"], shapes, base)
    if metadata.get("session") != client["session_id"]:
        raise ValueError(f"belongs to session {metadata.get('session')!r}, not to this one")
    if metadata.get("round") != state["round"]:
        raise ValueError(f"is late: it was trained in round {metadata.get('round')!r}")
    if metadata.get("base") != state["base"]:
        raise ValueError(f"started from model {metadata.get('base')!r}, this round's is {state['base']!r}")
    return check_examples(metadata.get("num_examples")), check_values(tensors, settings)


def check_examples(given):
    """Return the number in `given`, the text num_examples. Raises ValueError."""
    if not isinstance(given, str) or not given.isdecimal() or not 1 <= int(given) <= MAX_EXAMPLES:
        raise ValueError(f"has num_examples {given!r}, expected text with a number from 1 to {MAX_EXAMPLES}")
    return int(given)


def check_values(tensors, settings):
    """Return `tensors` if the merged model can hold them. Raises ValueError."""
    largest = np.finfo(settings["client"]["model_dtype"]).max
    narrow = largest < FLOAT32_MAX  # else all fit: decode has seen that they are finite
    for name, arrays in tensors.items():
        if narrow and any(max(array.max(), -array.min()) > largest for array in arrays if array.ndim > 1):
            raise ValueError(f"has values of {name} that are too large for this session's model: it diverged")
        values = dict(zip(settings["indices"][name], arrays, strict=True))
        for variance, mean in settings["variances"].items():
            if variance in values and values[variance].min() < 0:
                raise ValueError(f"has a negative variance in {name}")
            if variance in values and second_moment(values[variance], values[mean]).max() > FLOAT32_MAX:
                raise ValueError(f"has statistics of {name} that are too large to be merged: it diverged")
    return tensors
