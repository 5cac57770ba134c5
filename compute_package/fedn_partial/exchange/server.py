"""The server functions of a session, run by FEDn's hooks process.

They select the clients of a round, send them the round's settings, and merge their updates. FEDn receives this module
and its imports as text, see ``fedn_partial.seed_model.server_functions``: they import only numpy, the standard library
and each other.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import tempfile
import time

import numpy as np

from .batchnorm import statistics
from .changes import RelativeChanges
from .checks import check_update
from .custom import find
from .merge_rules import RULES
from .merge_rules.base import Round, Update
from .server_optimizers import OPTIMIZERS
from .state import load_arrays, load_state, remove_ended, save_arrays, save_state
from .wire import digest, plain

LOG = logging.getLogger("fedn")
FOREIGN_MODEL = "the global model does not belong to this session"
MAX_SETTINGS_BYTES = 1_000_000  # of the 4 MB of a FEDn message, beyond which no client trains
MAX_UNREQUESTED = 20  # clients named that were not requested to train; the rest are counted
MAX_ID = 100  # characters of a client's id; FEDn's have 36
GRACE = 120  # seconds after the timeout of a round until a session counts as dead
MAX_REASONS = 50_000  # characters of all reasons together


class ServerFunctions:
    """FEDn's server functions for one session.

    A layer that no client sent keeps its value, bit for bit.

    A global model that is neither the input nor the result of the last round belongs to another session. While this
    session runs, such a round fails. FEDn 0.33 keeps using server functions after their session, in sessions without
    any; there they average the clients' models, as FEDn does by default.

    Memory: the global model, one update, and what the merge rule holds.
    """

    settings = {}  # see fedn_partial.seed_model.server_functions.session_settings

    def __init__(self):
        self.client = self.settings["client"]  # settings of the session, sent to every client
        self.signal = self.settings["signal"]  # signal that the session's selector needs, or None
        self.rule = find(self.client["merge"], RULES)(self.settings)
        self.optimizer = find(self.client["server_optimizer"]["name"], OPTIMIZERS)(self.settings)
        self.layers = self.settings["parameters"]  # layer -> number of parameters
        remove_ended(self.state_path())
        self.state = load_state(self.state_path(), self.settings["seed_model"])
        self.selected = self.state["asked"]  # FEDn's ids of the clients of this round
        self.foreign = False  # whether this round belongs to another session
        self.active = time.monotonic()  # when a round of this session last began or ended
        self.start_round()

    def state_path(self):
        """Return the path of this session's state file."""
        return os.path.join(tempfile.gettempdir(), f"fedn-partial-{self.client['session_id']}.json")

    def save(self):
        """Save the state for a restart of the hooks process."""
        save_state(self.state_path(), self.state)

    def log(self, text, level=logging.INFO):
        """Write `text` to FEDn's log, with the round."""
        LOG.log(level, f"fedn-partial: round {self.state['round']}: {text}")

    def start_round(self):
        """Reset the accumulators for a new round."""
        self.rule.end()
        self.model = None  # the global model of this round
        self.changes = RelativeChanges(self.settings["indices"], self.settings["variances"])
        self.coverage = {}  # layer -> number of clients whose update has it
        self.all_examples = 0
        self.merged = []  # FEDn's ids of the clients whose updates were merged
        self.skipped = {}  # FEDn's id of a client -> why its update was skipped
        self.late = {}  # FEDn's id of a client -> the earlier round that its update was trained in
        self.unrequested = 0  # updates of clients that were not requested to train
        self.notes = []  # messages about the whole round, for the operator
        self.average = None  # of the models of a foreign round
        self.must_fail = False  # whether a foreign round must fail instead of averaging

    # A round begins

    def client_selection(self, client_ids):
        """Select the clients of the next round from the connected ones."""
        self.selected = sorted(client_ids)
        count = self.client["session"]["clients_per_round"]
        if count is not None and count < len(self.selected) and not self.is_over():
            draw = random.Random(f"{self.client['seed']}/{self.state['round'] + 1}/clients")
            self.selected = sorted(draw.sample(self.selected, count))
        return self.selected

    def is_over(self):
        """Return whether all rounds of this session have begun, so that the next belongs to another session."""
        return self.state["round"] >= self.client["session"]["rounds"]

    def is_alive(self):
        """Return whether this session may still begin a round."""
        return time.monotonic() - self.active < self.client["session"]["round_timeout"] + GRACE

    def client_settings(self, global_model):
        """Begin a round and return its settings, see fedn_partial.settings.case.RoundSettings."""
        self.start_round()
        base = digest(global_model)
        self.foreign = self.is_over() or base not in self.state["known"]
        if self.foreign:
            self.must_fail = not self.is_over() and self.is_alive()
            LOG.warning(
                f"fedn-partial: {FOREIGN_MODEL}, {self.client['session_id']}; foreign models are averaged. "
                "FEDn keeps these server functions until it receives others or its combiner restarts"
            )
            return {}
        self.begin_merging(global_model)
        state = self.state
        state["round"] += 1
        state["base"], state["asked"] = base, self.selected
        self.active = time.monotonic()
        self.save()
        return bounded(
            {
                **self.client,
                **self.signals(),
                "round": state["round"],
                "warmup": state["merged_rounds"] < self.settings["warmup_rounds"],
                "probabilities": self.rule.needs_probabilities,
                "merged_rounds": state["merged_rounds"],
                "fingerprint": self.settings["fingerprint"],
                "base": base,
                "previous": state["previous"],
            }
        )

    def begin_merging(self, global_model):
        """Prepare for the updates of a round, which are based on `global_model`."""
        self.model = global_model
        self.rule.begin(Round(global_model, self.settings, self.state["memory"]))

    def signals(self):
        """Return the signal that the session's selector needs, as settings."""
        if self.signal == "participants":
            names = self.state["names"]
            return {"participants": sorted({names.get(client, client) for client in self.selected})}
        if self.signal == "scores":
            return {"scores": self.state["scores"]}
        return {}

    # Updates arrive

    def incremental_aggregate(self, client_id, model, client_metadata, previous_global):
        """Add one client's update to the sums, or skip it and log the reason. Never raises for an invalid update."""
        try:
            if self.foreign:
                self.add_foreign(model, client_metadata)
                return
            if self.model is None:  # this process was restarted during the round
                self.resume(previous_global)
            update = self.check(client_id, model, client_metadata)
        except Exception as error:
            self.skip(client_id, client_metadata, error)
            return
        try:
            self.rule.add(update)
        except ValueError as error:
            self.skip(client_id, client_metadata, error)
            return
        if self.signal == "scores":
            self.changes.add(self.model, update)
        for name in update.tensors:
            self.coverage[name] = self.coverage.get(name, 0) + 1
        client = plain(client_metadata.get("client") or client_id, 100)
        if self.signal == "participants":
            self.state["names"][client_id] = client
        self.merged.append(client_id)
        limited = client_metadata.get("limited")
        self.log(
            f"merged {len(update.tensors)} layers of {client}, {update.examples} examples"
            + (f"; trained {plain(limited)}" if limited else "")
        )

    def check(self, client_id, model, metadata):
        """Return an Update (raises ValueError if it must be skipped)."""
        if isinstance(metadata, dict) and metadata.get("refused"):
            raise ValueError(f"the client refused: {metadata['refused']}")
        if client_id not in self.selected:
            raise ValueError("was not requested to train in this round")
        examples, tensors = check_update(model, metadata, self.model, self.settings, self.state)
        if client_id in self.merged:
            raise ValueError("is a duplicate update in this round")
        weights = self.rule.client_weights(list(tensors), examples, metadata, self.layers)
        if not all(0 < weights[name] < math.inf for name in tensors):
            raise ValueError(f"has layer weights {weights}, expected numbers above 0")
        return Update(examples, tensors, weights)

    def resume(self, global_model):
        """Resume the round in the state, if `global_model` is its global model (raises ValueError)."""
        if digest(global_model) != self.state["base"]:
            raise ValueError("arrived before its round began")
        self.begin_merging(global_model)
        self.notes.append("the hooks process was restarted; updates merged before are lost")

    def skip(self, client_id, metadata, reason):
        """Record a skipped update and log the reason. Also called by the hooks process, if it cannot read a model."""
        metadata = metadata if isinstance(metadata, dict) else {}
        client, reason = plain(metadata.get("client") or client_id, 100), plain(reason, 500)
        self.log(f"skipped the update of {client}: {reason}", logging.WARNING)
        if client_id not in self.selected:
            self.unrequested += 1
            if self.unrequested > MAX_UNREQUESTED or len(client_id) > MAX_ID:
                return
        if self.is_late(metadata):
            self.late[client_id] = metadata["round"]
            return
        # Every client receives these reasons, so a device's own text is only logged.
        self.skipped[client_id] = "the client refused" if metadata.get("refused") else reason

    def is_late(self, metadata):
        """Return whether an update was trained in an earlier round of this session."""
        trained_in = metadata.get("round")
        earlier = type(trained_in) is int and 0 < trained_in < self.state["round"]
        return earlier and metadata.get("session") == self.client["session_id"]

    # A round ends

    def get_incremental_aggregate_model(self):
        """End a round and return the new global model.

        Raises RuntimeError if there is none; FEDn then fails the round and keeps the global model.
        """
        if self.foreign:
            return self.end_foreign_round()
        if self.model is None:
            raise RuntimeError("fedn-partial: no update has arrived")
        if not self.merged:
            self.log("no valid update, global model unchanged", logging.WARNING)
        try:
            model, arrays = self.merge()
            self.state["scores"].update(self.changes.scores(self.model))
        except Exception as error:
            self.note_failure(f"merge rule {self.client['merge']}: {type(error).__name__}: {error}")
            raise
        self.state["known"] = [self.state["base"], digest(model)]
        self.keep_arrays(arrays)
        self.report()
        if self.is_over():
            self.close()
        self.start_round()
        self.active = time.monotonic()
        return model

    def merge(self):
        """Return the new global model, and the server optimizer's arrays.

        Tensors of layers that no client sent are those of the old model.
        """
        model, fixed = list(self.model), statistics(self.settings["variances"])
        self.optimizer.begin(self.optimizer_arrays())
        for name in self.coverage:
            for index, value in zip(self.settings["indices"][name], self.rule.merge(name), strict=True):
                if index not in fixed:
                    value = self.optimizer.step(index, self.model[index], value)
                dtype = self.client["model_dtype"] if value.ndim > 1 else "float32"
                largest = np.finfo(dtype).max  # a step may go beyond what any client sent
                model[index] = np.clip(value, -largest, largest).astype(dtype)
        return model, self.optimizer.end()

    def optimizer_arrays(self):
        """Return the server optimizer's arrays that belong to the global model of this round."""
        if self.state["base"] not in self.state["arrays"]:
            return {}
        arrays = load_arrays(self.state_path(), self.state["base"])
        if arrays is None:
            self.notes.append("the state of the server optimizer is lost; it begins again")
        return arrays or {}

    def keep_arrays(self, arrays):
        """Save the server optimizer's arrays that belong to the new global model, if there are any."""
        base, new = self.state["known"]
        kept = {base} & set(self.state["arrays"])  # if FEDn does not commit the new model
        if arrays:
            try:
                save_arrays(self.state_path(), new, arrays)
                kept.add(new)
            except OSError as error:
                self.notes.append(f"the state of the server optimizer cannot be saved and begins again: {error}")
        self.state["arrays"] = sorted(kept)

    def close(self):
        """End the session: remove its arrays. Its state is removed when another session begins.

        Until then it tells a restarted hooks process that the session is over.
        """
        self.state.update(over=True, arrays=[])
        self.save()

    def report(self):
        """Save and log coverage, staleness and the outcome of each update."""
        state = self.state
        coverage = {name: self.coverage.get(name, 0) for name in self.layers}
        staleness = {name: 0 if sent else state["staleness"].get(name, 0) + 1 for name, sent in coverage.items()}
        state["staleness"] = staleness
        state["merged_rounds"] += 1 if self.merged else 0
        if self.unrequested:
            self.notes.append(f"{self.unrequested} updates of clients that were not requested to train")
        length = max(20, MAX_REASONS // (len(self.skipped) + 1))
        state["previous"] = {
            "round": state["round"],
            "merged": self.merged,
            "skipped": {client: reason[:length] for client, reason in self.skipped.items()},
            "late": self.late,
            "notes": self.notes,
            "staleness": {name: age for name, age in staleness.items() if age},
        }
        self.save()
        covered = sum(1 for sent in coverage.values() if sent)
        stale = ", ".join(f"{name} {age}" for name, age in staleness.items() if age)
        self.log(
            f"{len(self.merged)} merged, {len(self.skipped)} skipped, "
            f"coverage {covered} of {len(staleness)} layers, staleness: {stale or 'none'}"
        )

    # Rounds of other sessions

    def add_foreign(self, model, metadata):
        """Add a model of another session to the average, as FEDn does without server functions."""
        if not isinstance(metadata, dict) or "format" in metadata or "refused" in metadata:
            self.must_fail = True  # an update of fedn-partial
            return
        examples = metadata["num_examples"]
        if not examples > 0:  # raises for text
            raise ValueError(f"has num_examples {examples!r}")
        total = self.all_examples + examples
        if self.average is None:
            average = model
        else:
            if [array.shape for array in model] != [array.shape for array in self.average]:
                raise ValueError("has other shapes than the previous models")
            average = [old + examples * (new - old) / total for old, new in zip(self.average, model, strict=True)]
        self.average, self.all_examples = average, total

    def end_foreign_round(self):
        """Return the mean of the models of another session; raise RuntimeError if the round must fail."""
        average, self.average, self.model = self.average, None, None
        if self.must_fail or average is None:
            self.note_failure(FOREIGN_MODEL)
            raise RuntimeError(f"fedn-partial: {FOREIGN_MODEL}")
        return average

    def note_failure(self, reason):
        """Add why the next round failed to the last report, for the operator: a round that fails has no report."""
        previous = self.state["previous"]
        previous.setdefault("round", self.state["round"])
        notes, note = previous.setdefault("notes", []), f"after this round, {plain(reason, 500)}"
        if note not in notes:
            notes.append(note)
        self.save()


def bounded(settings):
    """Return a round's `settings`, without keys that make them larger than MAX_SETTINGS_BYTES."""
    for key, replacement in (("previous", {"round": settings["round"] - 1}), ("participants", [])):
        if key in settings and len(json.dumps(settings)) > MAX_SETTINGS_BYTES:
            LOG.warning(f"fedn-partial: {key!r} omitted: the settings exceed {MAX_SETTINGS_BYTES:,} bytes")
            settings[key] = replacement
    return settings
