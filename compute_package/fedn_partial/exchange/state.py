"""State of a session's server functions, which survives a restart of FEDn's hooks process.

It is a JSON file ``NAME.json``. Arrays that belong to a global model are in a file ``NAME-DIGEST.npz`` beside it, named
by the model's digest and written before the JSON file, whose key `arrays` lists the digests. After a kill between the
two, the JSON file still names the model before, whose arrays are removed only afterwards.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import time
import zipfile
import zlib

import numpy as np

LOG = logging.getLogger("fedn")
MAX_AGE = 8 * 24 * 3600  # seconds without a change after which a session is dead; a round takes a week at most


def new_state(seed_model):
    """Return the initial state of a session; `seed_model` is the digest of its seed model."""
    return {
        "round": 0,
        "merged_rounds": 0,
        "base": "",  # digest of the global model of the last round
        "known": [seed_model],  # digests of the global models that the next round may have
        "arrays": [],  # those of them with arrays of the server optimizer
        "asked": [],  # FEDn's ids of the clients selected for the round
        "staleness": {},  # layer -> rounds since it was last trained
        "previous": {},  # report on the previous round
        "names": {},  # FEDn's id of a client -> its name
        "scores": {},  # layer -> relative change when last trained
        "memory": {},  # of the merge rule
        "over": False,  # whether all rounds are over
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
    """Write the state to the file `path` atomically, then remove arrays of other models than those of the state."""
    try:
        with open(path + ".new", "w") as file:
            json.dump(state, file)
        os.replace(path + ".new", path)
        remove_arrays(path, state["arrays"])
    except OSError as error:
        LOG.warning(f"fedn-partial: cannot save the session state: {error}")


def arrays_path(path, model):
    """Return the file of the arrays that belong to the global model with the digest `model`."""
    return f"{path.removesuffix('.json')}-{model}.npz"


def save_arrays(path, model, arrays):
    """Write the arrays {name: array} of a global model atomically (raises OSError)."""
    path = arrays_path(path, model)
    try:
        with open(path + ".new", "wb") as file:
            np.savez(file, **arrays)
        os.replace(path + ".new", path)
    except OSError:
        if os.path.exists(path + ".new"):
            os.unlink(path + ".new")
        raise


def load_arrays(path, model):
    """Return the arrays of a global model, or None if they are missing or damaged."""
    try:
        with np.load(arrays_path(path, model)) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        LOG.warning(f"fedn-partial: {arrays_path(path, model)} is missing or damaged: {error!r}")
        return None


def remove_arrays(path, excluded=()):
    """Remove the arrays of all models, except those with the digests `excluded`."""
    for file in glob.glob(f"{glob.escape(path.removesuffix('.json'))}-*.npz*"):
        if file not in [arrays_path(path, model) for model in excluded]:
            os.unlink(file)


def remove_ended(path):
    """Remove the files of sessions that are over or dead in the folder of `path`, the state file of a new session."""
    for other in glob.glob(os.path.join(glob.escape(os.path.dirname(path)), "fedn-partial-*.json")):
        try:
            if other != path and (is_over(other) or time.time() - os.path.getmtime(other) > MAX_AGE):
                os.unlink(other)
                remove_arrays(other)
        except OSError as error:
            LOG.warning(f"fedn-partial: cannot remove the files of an ended session: {error}")


def is_over(path):
    """Return whether the state file `path` is of a session that is over."""
    try:
        with open(path) as file:
            return json.load(file)["over"] is True
    except (ValueError, LookupError, TypeError):
        return False
