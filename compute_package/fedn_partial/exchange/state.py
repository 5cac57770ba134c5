"""State of a session's server functions, which survives a restart of FEDn's hooks process."""

from __future__ import annotations

import json
import logging
import os

LOG = logging.getLogger("fedn")


def new_state(seed_model):
    """Return the initial state of a session; `seed_model` is the digest of its seed model."""
    return {
        "round": 0,
        "merged_rounds": 0,
        "base": "",  # digest of the global model of the last round
        "known": [seed_model],  # digests of the global models that the next round may have
        "asked": [],  # FEDn's ids of the clients selected for the round
        "staleness": {},  # layer -> rounds since it was last trained
        "previous": {},  # report on the previous round
        "names": {},  # FEDn's id of a client -> its name
        "scores": {},  # layer -> relative change when last trained
        "memory": {},  # of the merge rule
    }


def load_state(path, seed_model):
    """Return the state in the file `path`, or the initial state if it is missing or damaged."""
    state = new_state(seed_model)
    try:
        with open(path) as file:
            saved = json.load(file)
        if all(type(saved[key]) is type(value) for key, value in state.items()):
            return saved
    except (OSError, ValueError, LookupError, TypeError) as error:
        if not isinstance(error, FileNotFoundError):
            LOG.warning(f"fedn-partial: damaged session state {path}, starting from round 1: {error!r}")
    return state


def save_state(path, state):
    """Write the state to the file `path` atomically."""
    try:
        with open(path + ".new", "w") as file:
            json.dump(state, file)
        os.replace(path + ".new", path)
    except OSError as error:
        LOG.warning(f"fedn-partial: cannot save the session state: {error}")
