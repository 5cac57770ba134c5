"""What a session's server functions keep over a restart of FEDn's hooks process."""

from __future__ import annotations

import json
import logging
import os

LOG = logging.getLogger("fedn")


def new_state(seed_model):
    """Return the state of a session that begins; `seed_model` is the digest of its global model."""
    return {
        "round": 0,
        "merged_rounds": 0,
        "base": "",  # digest of the global model that the last round started from
        "known": [seed_model],  # digests of the global models that may come next
        "asked": [],  # FEDn's ids of the clients of the round
        "staleness": {},  # layer -> rounds since it was last trained
        "previous": {},  # report on the round before
        "names": {},  # FEDn's id of a client -> its name
        "scores": {},  # layer -> relative change when it was last trained
    }


def load_state(path, seed_model):
    """Return the state in the file `path`, or a new one if there is none or it is damaged."""
    state = new_state(seed_model)
    try:
        with open(path) as file:
            saved = json.load(file)
        if all(type(saved[key]) is type(value) for key, value in state.items()):
            return saved
    except (OSError, ValueError, LookupError, TypeError) as error:
        if not isinstance(error, FileNotFoundError):
            LOG.warning(f"fedn-partial: unusable session state, counting anew: {error!r}")
    return state


def save_state(path, state):
    """Write the state to the file `path`, whole or not at all."""
    try:
        with open(path + ".new", "w") as file:
            json.dump(state, file)
        os.replace(path + ".new", path)
    except OSError as error:
        LOG.warning(f"fedn-partial: cannot keep the state of the session: {error}")
