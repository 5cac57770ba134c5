"""The server functions: what FEDn's hooks process runs for a session.

They select the clients of a round, send them the round's settings, and merge the layers that they send. The folder
``exchange/`` travels to FEDn as text, see ``fedn_partial.seed_model.server_functions``: this module and those below it
import numpy, the standard library and each other only.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import tempfile
import time

from .aggregation import Aggregate
from .checks import check_update
from .custom import find
from .merge_rules import RULES
from .state import load_state, save_state
from .wire import digest, plain

LOG = logging.getLogger("fedn")
STRANGER = "the global model is not of this session"
MAX_SETTINGS_BYTES = 1_000_000  # FEDn's messages may have 4 MB, beyond which no client trains
MAX_UNINVITED = 20  # clients that were not asked are named, the rest counted
MAX_ID = 100  # characters of a client's id; FEDn's have 36
PATIENCE = 120  # seconds beyond the timeout of a round, after which a session counts as dead
MAX_REASONS = 50_000  # characters of all reasons together


class ServerFunctions:
    """FEDn's server functions for one session.

    A layer that nobody sent keeps its value, bit for bit.

    A global model that is neither the one that the last round made nor the one that it started from is not of this
    session: while the session runs, such a round fails. FEDn 0.33 keeps server functions in use after their session, in
    sessions that bring none; there they average the clients' models, as FEDn does without them.

    Memory: the previous global model, float64 sums of one model, and the update in hand.
    """

    settings = {}  # see fedn_partial.seed_model.server_functions.session_settings

    def __init__(self):
        self.client = self.settings["client"]  # settings of the session, which every client is sent
        self.signal = self.settings["signal"]  # what the session's selector needs from the server, or None
        self.rule = find(self.client["merge"], RULES)(self.settings)
        self.layers = self.settings["parameters"]  # layer -> number of parameters
        self.state = load_state(self.state_path(), self.settings["seed_model"])
        self.asked = self.state["asked"]  # FEDn's ids of the clients of this round
        self.aside = False  # whether this round is not one of this session
        self.active = time.monotonic()  # when a round of this session last began or ended
        self.start_round()

    def state_path(self):
        """Return the path of the state of this session."""
        return os.path.join(tempfile.gettempdir(), f"fedn-partial-{self.client['session_id']}.json")

    def save(self):
        """Write the state beside FEDn's temporary models, for a restart of the hooks process."""
        save_state(self.state_path(), self.state)

    def log(self, text, level=logging.INFO):
        """Log `text` about this round in FEDn's log."""
        LOG.log(level, f"fedn-partial: round {self.state['round']}: {text}")

    def start_round(self):
        """Reset the accumulators for a new round."""
        self.model = None  # the global model of this round
        self.aggregate = Aggregate(self.settings["indices"], self.settings["variances"])
        self.all_examples = 0
        self.merged = []  # FEDn's ids of the clients that were merged
        self.skipped = {}  # FEDn's id of a client -> why it was not
        self.late = {}  # FEDn's id of a client -> the earlier round that its update was trained in
        self.uninvited = 0  # updates of clients that were not asked
        self.notes = []  # sentences about the whole round, for the operator
        self.average = None  # of the models of a session that is not this one
        self.addressed = False  # whether a client answered as one of this session, in a round that is not

    # A round begins

    def client_selection(self, client_ids):
        """Return which of the connected clients are asked to train in the round that begins."""
        self.asked = sorted(client_ids)
        count = self.client["session"]["clients_per_round"]
        if count is not None and count < len(self.asked) and not self.is_over():
            draw = random.Random(f"{self.client['seed']}/{self.state['round'] + 1}/clients")
            self.asked = sorted(draw.sample(self.asked, count))
        return self.asked

    def is_over(self):
        """Return whether all rounds of this session were begun: what comes now is another session."""
        return self.state["round"] >= self.client["session"]["rounds"]

    def is_alive(self):
        """Return whether this session's next round may still come."""
        return time.monotonic() - self.active < self.client["session"]["round_timeout"] + PATIENCE

    def client_settings(self, global_model):
        """Begin a round: return its settings, see fedn_partial.settings.case.RoundSettings."""
        self.start_round()
        self.model = global_model
        base = digest(global_model)
        self.aside = self.is_over() or base not in self.state["known"]
        if self.aside:
            self.addressed = not self.is_over() and self.is_alive()
            LOG.warning(
                f"fedn-partial: {STRANGER}, {self.client['session_id']}; others' models are averaged. "
                "FEDn keeps these functions until it is given others or its combiner restarts"
            )
            return {}
        state = self.state
        state["round"] += 1
        state["base"], state["asked"] = base, self.asked
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

    def signals(self):
        """Return what the session's selector needs from the server."""
        if self.signal == "participants":
            names = self.state["names"]
            return {"participants": sorted({names.get(client, client) for client in self.asked})}
        if self.signal == "scores":
            return {"scores": self.state["scores"]}
        return {}

    # Updates arrive

    def incremental_aggregate(self, client_id, model, client_metadata, previous_global):
        """Add one client's update to the sums, or skip it and log why. Never raises on what a client sent."""
        try:
            if self.aside:
                self.add_other(model, client_metadata)
                return
            if self.model is None:  # this process was restarted in mid-round
                self.resume(previous_global)
            examples, tensors, weights = self.check(client_id, model, client_metadata)
        except Exception as error:
            self.skip(client_id, client_metadata, error)
            return
        self.aggregate.add(self.model, tensors, weights, scores=self.signal == "scores")
        client = plain(client_metadata.get("client") or client_id, 100)
        if self.signal == "participants":
            self.state["names"][client_id] = client
        self.all_examples += examples
        self.merged.append(client_id)
        limited = client_metadata.get("limited")
        self.log(
            f"merged {len(tensors)} layers of {client}, {examples} examples"
            + (f"; it trained {plain(limited)}" if limited else "")
        )

    def check(self, client_id, model, metadata):
        """Return an update's number of examples, its tensors {layer: arrays}, and its weight in each layer.

        Raises ValueError if it must be skipped.
        """
        if isinstance(metadata, dict) and metadata.get("refused"):
            raise ValueError(f"it did not train: {metadata['refused']}")
        if client_id not in self.asked:
            raise ValueError("was not asked to train in this round")
        examples, tensors = check_update(model, metadata, self.model, self.settings, self.state)
        if client_id in self.merged:
            raise ValueError("is a second update of this client in this round")
        weights = self.rule.client_weights(list(tensors), examples, metadata, self.layers)
        if not all(0 < weights[name] < math.inf for name in tensors):
            raise ValueError(f"has the weights {weights}, expected numbers above 0")
        return examples, tensors, weights

    def resume(self, global_model):
        """Go on with the round that the state says is under way, if `global_model` is the one that it started from."""
        if digest(global_model) != self.state["base"]:
            raise ValueError("arrived before its round had begun")
        self.model = global_model
        self.notes.append("the hooks process was restarted; what it had merged is lost")

    def skip(self, client_id, metadata, reason):
        """Leave out an update and say why, by name. Also called by the hooks process, if it cannot read a model."""
        metadata = metadata if isinstance(metadata, dict) else {}
        client, reason = plain(metadata.get("client") or client_id, 100), plain(reason, 500)
        self.log(f"skipped the update of {client}: {reason}", logging.WARNING)
        if client_id not in self.asked:
            self.uninvited += 1
            if self.uninvited > MAX_UNINVITED or len(client_id) > MAX_ID:
                return
        if self.is_late(metadata):
            self.late[client_id] = metadata["round"]
            return
        # Every client is sent this, so it holds the server's words only; a device's own stay in the log.
        self.skipped[client_id] = "it did not train" if metadata.get("refused") else reason

    def is_late(self, metadata):
        """Return whether an update was trained in an earlier round of this session."""
        trained_in = metadata.get("round")
        earlier = type(trained_in) is int and 0 < trained_in < self.state["round"]
        return earlier and metadata.get("session") == self.client["session_id"]

    # A round ends

    def get_incremental_aggregate_model(self):
        """End a round: return the new global model.

        Raises RuntimeError, with which FEDn fails the round and keeps the global model, if there is none to return.
        """
        if self.aside:
            return self.end_others_round()
        if self.model is None:
            raise RuntimeError("fedn-partial: no update has arrived")
        if not self.merged:
            self.log("no valid update, the global model stays", logging.WARNING)
        model, aggregate = list(self.model), self.aggregate
        for name in aggregate.weights:
            aggregate.merge(self.model, model, name, self.step(name), self.client["model_dtype"])
            if name in aggregate.squared_change:
                self.state["scores"][name] = aggregate.score(self.model, name)
        self.state["known"] = [self.state["base"], digest(model)]
        self.report()
        self.start_round()
        self.active = time.monotonic()
        return model

    def step(self, name):
        """Return the step of one layer towards the mean of its updates."""
        if name not in self.layers:  # statistics that every client sent
            return 1.0
        aggregate = self.aggregate
        step = self.rule.step_size(aggregate.weights[name], aggregate.coverage[name], self.all_examples)
        if not 0 <= step < math.inf:
            raise RuntimeError(f"fedn-partial: merge rule {self.client['merge']} has step {step!r} of {name}")
        return step

    def report(self):
        """Keep coverage, staleness and what became of each update, and log them."""
        state = self.state
        coverage = {name: self.aggregate.coverage.get(name, 0) for name in self.layers}
        staleness = {name: 0 if sent else state["staleness"].get(name, 0) + 1 for name, sent in coverage.items()}
        state["staleness"] = staleness
        state["merged_rounds"] += 1 if self.merged else 0
        if self.uninvited:
            self.notes.append(f"{self.uninvited} updates of clients not asked")
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
            f"coverage {covered} of {len(staleness)} layers, rounds since last trained: {stale or 'none stale'}"
        )

    # Rounds of other sessions

    def add_other(self, model, metadata):
        """Average a model of a session that is not this one, as FEDn does without server functions."""
        if not isinstance(metadata, dict) or "format" in metadata or "refused" in metadata:
            self.addressed = True
            return
        examples = metadata["num_examples"]
        if not examples > 0:  # raises for text
            raise ValueError(f"has num_examples {examples!r}")
        total = self.all_examples + examples
        if self.average is None:
            average = model
        else:
            if [array.shape for array in model] != [array.shape for array in self.average]:
                raise ValueError("has other shapes than the models before it")
            average = [old + examples * (new - old) / total for old, new in zip(self.average, model, strict=True)]
        self.average, self.all_examples = average, total

    def end_others_round(self):
        """Return the mean of the models of another session; raise RuntimeError if it is this one after all."""
        average, self.average, self.model = self.average, None, None
        if self.addressed or average is None:
            previous = self.state["previous"]
            previous.setdefault("round", self.state["round"])
            notes, note = previous.setdefault("notes", []), f"after it, {STRANGER}"
            if note not in notes:
                notes.append(note)
            self.save()
            raise RuntimeError(f"fedn-partial: {STRANGER}")
        return average


def bounded(settings):
    """Return a round's `settings` without what makes them larger than MAX_SETTINGS_BYTES."""
    for key, smaller in (("previous", {"round": settings["round"] - 1}), ("participants", [])):
        if key in settings and len(json.dumps(settings)) > MAX_SETTINGS_BYTES:
            LOG.warning(f"fedn-partial: {key!r} is too large")
            settings[key] = smaller
    return settings
