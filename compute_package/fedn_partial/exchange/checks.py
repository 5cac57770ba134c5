"""Server-side checks of an update: whether it belongs to this round and can be merged."""

from __future__ import annotations

import numpy as np

from .batchnorm import second_moment
from .decoding import decode

FLOAT32_MAX = np.finfo(np.float32).max


def check_update(arrays, metadata, model, settings, state):
    """Return an update's number of examples and its tensors {layer: arrays}.

    Parameters
    ----------
    arrays, metadata : as passed by FEDn's hooks.
    model : the global model of the round. settings, state : of the session.

    Raises
    ------
    ValueError : the update must be skipped; the message is the reason.
    """
    client = settings["client"]
    base = {name: [model[index] for index in indices] for name, indices in settings["indices"].items()}
    shapes = {name: [array.shape for array in tensors] for name, tensors in base.items()}
    tensors = decode(arrays, metadata, settings["fingerprint"], client["codec"], shapes, base)
    if metadata.get("session") != client["session_id"]:
        raise ValueError(f"belongs to another session, {metadata.get('session')!r}")
    if metadata.get("round") != state["round"]:
        raise ValueError(f"is late: trained in round {metadata.get('round')!r}")
    if metadata.get("base") != state["base"]:
        raise ValueError(f"is based on model {metadata.get('base')!r}, expected {state['base']!r}")
    return check_examples(metadata.get("num_examples"), settings["max_examples"]), check_values(tensors, settings)


def check_examples(text, limit):
    """Return num_examples, which metadata hold as a string, as an int (raises ValueError).

    A client with more examples than any client has would outweigh the others; `limit` is max_examples of the session.
    """
    if not isinstance(text, str) or not text.isdecimal() or not 1 <= int(text) <= limit:
        raise ValueError(f"has num_examples {text!r}, expected a string with a number from 1 to max_examples, {limit}")
    return int(text)


def check_values(tensors, settings):
    """Return `tensors` if the merged model can represent them (raises ValueError)."""
    model_dtype = settings["client"]["model_dtype"]
    largest = np.finfo(model_dtype).max
    narrow = largest < FLOAT32_MAX  # otherwise all fit: decode checks that they are finite
    for name, arrays in tensors.items():
        if narrow and any(max(array.max(), -array.min()) > largest for array in arrays if array.ndim > 1):
            raise ValueError(
                f"exceeds the {model_dtype} range in {name}: the local training diverged; lower the learning rate"
            )
        values = dict(zip(settings["indices"][name], arrays, strict=True))
        for variance, mean in settings["variances"].items():
            if variance in values and values[variance].min() < 0:
                raise ValueError(f"has a negative variance in {name}")
            if variance in values and second_moment(values[variance], values[mean]).max() > FLOAT32_MAX:
                raise ValueError(f"has too large statistics in {name}: the local training diverged")
    return tensors
