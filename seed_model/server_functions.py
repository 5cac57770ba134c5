"""The server functions: what FEDn's hooks process runs for a session.

FEDn sends a class to its hooks process as source text, in which nothing of its module exists. So ``source``
makes a self-contained class of the one below: it puts in the session's settings, and the library functions in
place of the lines that refer to them. Tests and the simulator use the class as it stands here.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import os
import random
import re
import textwrap

import numpy as np
from fedn.common.log_config import logger
from fedn.network.combiner.hooks.serverfunctionsbase import ServerFunctionsBase

from fedn_partial.exchange import update
from fedn_partial.settings.case import Case
from fedn_partial.submodel import selection
from fedn_partial.submodel.layers import Layer, fingerprint
from fedn_partial.submodel.update_tensors import shapes, update_tensors


class ServerFunctions(ServerFunctionsBase):
    """Tells the clients what to train, and merges the layers that they send.

    With W the global model, D_k = W_k - W the change that client k sent, n_k its number of examples, for each layer l
    the set S_l of the m_l clients that sent it, and M_l = sum over S_l of n_k D_k / sum over S_l of n_k their mean:

    all_clients : W_l += M_l times (sum of n_k over S_l / sum of n_k over ALL clients of the round)
    contributors : W_l += M_l
    shrunk : W_l += M_l times m_l / (m_l + shrinkage)
    inverse_probability : W_l += sum over S_l of n_k D_k / p_kl / sum of n_k over ALL clients, with p_kl the
        probability that client k trained l, by its own account, at least 0.1 (Horvitz & Thompson 1952). Where more
        clients than expected trained a layer, it goes further than any of them did.

    A layer that nobody sent keeps its value, bit for bit. BatchNormalization's moving statistics are averages, not
    steps: they are never moved further than to the mean of those sent. Moving variances are pooled: the merged variance
    is that of the mixture of the clients' distributions, weighted as above (with ``all_clients``, the clients that did
    not send a layer count with the global model's mean and variance).

    A global model that is neither the one that the last round made nor the one that it started from is not of this
    session. FEDn 0.33 keeps server functions in use after their session, in sessions that bring none; there they
    average the clients' models, as FEDn does without them. If a client answers as one of this session, the round fails.

    Memory: the previous global model, float64 sums of one model, and the update in hand.
    """

    settings: dict = {}  # see session_settings
    digest = staticmethod(update.digest)
    decode = staticmethod(update.decode)
    plain = staticmethod(update.plain)
    stranger = "the global model is not of this session"
    max_settings_bytes = 1_000_000
    max_uninvited = 20  # as many clients that were not asked are named
    max_reasons = 50_000  # characters of all reasons together
    # More examples than a device could train on in a round; such a number would drown every other client.
    max_examples = 10_000_000
    least_probability = 0.1  # of a layer, with merge rule inverse_probability: no client counts more than tenfold

    def __init__(self):
        self.state = self.load_state()
        self.model = None  # the global model of this round
        self.asked = self.state["asked"]  # FEDn's ids of the clients of this round
        self.aside = False  # whether this round is not one of this session
        self.start_round()

    def start_round(self):
        """Reset the accumulators for a new round."""
        self.buffer = np.empty(32768)
        self.sums = {}  # index of a tensor -> float64 sum of w_k W_k (variances: of w_k (var_k + mean_k ** 2))
        self.weights = {}  # layer -> sum of w_k of those who sent it; w_k is n_k, or n_k / p_kl
        self.all_examples = 0
        self.coverage = {}  # layer -> how many clients sent it
        self.moved = {}  # layer -> sum of w_k |D_k|^2, if scores are wanted
        self.merged = []  # FEDn's ids of the clients that were merged
        self.skipped = {}  # FEDn's id of a client -> why it was not
        self.late = {}  # FEDn's id of a client -> the earlier round that its update was trained in
        self.uninvited = 0  # updates of clients that were not asked
        self.notes = []  # sentences about the whole round, for the operator
        self.average = None  # of the models of a session that is not this one
        self.addressed = False  # whether a client answered as one of this session, in a round that is not

    def client_selection(self, client_ids):
        """Return which of the connected clients are asked to train in the round that begins."""
        self.asked = sorted(client_ids)
        count = self.settings["client"]["clients_per_round"]
        if count is not None and count < len(self.asked) and not (self.aside or self.is_over()):
            draw = random.Random(f"{self.settings['client']['seed']}/{self.state['round'] + 1}/clients")
            self.asked = sorted(draw.sample(self.asked, count))
        return self.asked

    def is_over(self):
        """Return whether all rounds of this session were begun: what comes now is another session."""
        return self.state["round"] >= self.settings["rounds"]

    def client_settings(self, global_model):
        """Begin a round: return what every client is told, see fedn_partial.settings.case.Instructions."""
        self.start_round()
        self.model = global_model
        digest = self.digest(global_model)
        self.aside = self.is_over() or digest not in self.state["known"]
        if self.aside:
            logger.warning(
                f"fedn-partial: {self.stranger}, {self.settings['client']['session']}; others' models are averaged. "
                "FEDn keeps these functions until it is given others or its combiner restarts"
            )
            return {}
        self.state["round"] += 1
        self.state["base"] = digest
        self.state["asked"] = self.asked
        self.save_state()
        return self.bounded(
            {
                **self.settings["client"],
                **self.signals(),
                "round": self.state["round"],
                "warmup": self.state["merged_rounds"] < self.settings["warmup_rounds"],
                "probabilities": self.settings["merge"] == "inverse_probability",
                "merged_rounds": self.state["merged_rounds"],
                "fingerprint": self.settings["fingerprint"],
                "base": digest,
                "previous": self.state["previous"],
            }
        )

    def signals(self):
        """Return what the session's selector wants to know from the server."""
        if self.settings["signal"] == "participants":
            names = self.state["names"]
            return {"participants": sorted({names.get(client, client) for client in self.asked})}
        if self.settings["signal"] == "scores":
            return {"scores": self.state["scores"]}
        return {}

    def bounded(self, told):
        """Return `told` without what makes it larger than FEDn's messages may be: 4 MB, beyond which nobody trains."""
        for key, smaller in (("previous", {"round": told["round"] - 1}), ("participants", [])):
            if key in told and len(json.dumps(told)) > self.max_settings_bytes:
                logger.warning(f"fedn-partial: {key!r} is too large")
                told[key] = smaller
        return told

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
        for name, arrays in tensors.items():
            self.add(name, arrays, weights[name])
            self.weights[name] = self.weights.get(name, 0) + weights[name]
            self.coverage[name] = self.coverage.get(name, 0) + 1
            if self.settings["signal"] == "scores":
                self.moved[name] = self.moved.get(name, 0.0) + weights[name] * self.distance(name, arrays)
        client = self.plain(client_metadata.get("client") or client_id, 100)
        if self.settings["signal"] == "participants":
            self.state["names"][client_id] = client
        self.all_examples += examples
        self.merged.append(client_id)
        limited = client_metadata.get("limited")
        logger.info(
            f"fedn-partial: round {self.state['round']}: merged {len(tensors)} layers of {client}, {examples} examples"
            + (f"; it trained {self.plain(limited)}" if limited else "")
        )

    def resume(self, global_model):
        """Go on with the round that the state says is under way, if `global_model` is the one that it started from."""
        if self.digest(global_model) != self.state["base"]:
            raise ValueError("arrived before its round had begun")
        self.model = global_model
        self.notes.append("the hooks process was restarted; what it had merged is lost")

    def skip(self, client_id, metadata, reason):
        """Leave out an update and say why, by name. Also called by the hooks process, if it cannot read a model."""
        metadata = metadata if isinstance(metadata, dict) else {}
        client, reason = self.plain(metadata.get("client") or client_id, 100), self.plain(reason, 500)
        logger.warning(f"fedn-partial: round {self.state['round']}: skipped the update of {client}: {reason}")
        if self.is_late(metadata):
            self.late[client_id] = metadata["round"]
            return
        if client_id not in self.asked:
            self.uninvited += 1
            if self.uninvited > self.max_uninvited:
                return
        # Every client is sent this, so it holds the server's words only; a device's own stay in the log.
        self.skipped[client_id] = "it did not train" if metadata.get("refused") else reason

    def is_late(self, metadata):
        """Return whether an update was trained in an earlier round of this session."""
        trained_in, session = metadata.get("round"), metadata.get("session")
        earlier = type(trained_in) is int and 0 < trained_in < self.state["round"]
        return earlier and session == self.settings["client"]["session"]

    def check(self, client_id, model, metadata):
        """Return an update's number of examples, its tensors {layer: arrays}, and its weight in each layer.

        Raises ValueError if it must be skipped.
        """
        if isinstance(metadata, dict) and metadata.get("refused"):
            raise ValueError(f"it did not train: {metadata['refused']}")
        if client_id not in self.asked:
            raise ValueError("was not asked to train in this round")
        settings = self.settings
        base = {name: [self.model[index] for index in indices] for name, indices in settings["indices"].items()}
        codec = settings["client"]["codec"]
        tensors = self.decode(model, metadata, settings["fingerprint"], codec, settings["layers"], base)
        if metadata.get("session") != settings["client"]["session"]:
            raise ValueError(f"belongs to session {metadata.get('session')!r}, not to this one")
        if metadata.get("round") != self.state["round"]:
            raise ValueError(f"is late: it was trained in round {metadata.get('round')!r}")
        if metadata.get("base") != self.state["base"]:
            raise ValueError(f"started from model {metadata.get('base')!r}, this round's is {self.state['base']!r}")
        if client_id in self.merged:
            raise ValueError("is a second update of this client in this round")
        given = metadata.get("num_examples")
        if not isinstance(given, str) or not given.isdecimal() or not 1 <= int(given) <= self.max_examples:
            raise ValueError(f"has num_examples {given!r}, expected text with a number from 1 to {self.max_examples}")
        largest = np.finfo(settings["model_dtype"]).max
        narrow = largest < np.finfo(np.float32).max  # else all fit: decode has seen that they are finite
        for name, arrays in tensors.items():
            if narrow and any(max(array.max(), -array.min()) > largest for array in arrays if array.ndim > 1):
                raise ValueError(f"has values of {name} that are too large for this session's model: it diverged")
            values = dict(zip(settings["indices"][name], arrays, strict=True))
            for variance, mean in settings["variances"].items():
                if variance in values and values[variance].min() < 0:
                    raise ValueError(f"has a negative variance in {name}")
                if variance in values and self.moment(values[variance], values[mean]).max() > np.finfo(np.float32).max:
                    raise ValueError(f"has statistics of {name} that are too large to be merged: it diverged")
        return int(given), tensors, self.weigh(tensors, int(given), metadata)

    def weigh(self, names, examples, metadata):
        """Return with which weight an update counts in each layer. Raises ValueError if it does not say."""
        if self.settings["merge"] != "inverse_probability":
            return dict.fromkeys(names, examples)
        given = metadata.get("probabilities")
        probable = {name: given.get(name) if isinstance(given, dict) else None for name in names}
        probable |= {name: 1.0 for name in names if name not in self.settings["parameters"]}
        for name, value in probable.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
                raise ValueError(f"has probability {value!r} of {name}, expected a number above 0, at most 1")
        return {name: examples / max(value, self.least_probability) for name, value in probable.items()}

    def moment(self, variance, mean):
        """Return E[x^2] = variance + mean^2 as float64."""
        return variance.astype(np.float64) + np.square(mean, dtype=np.float64)

    def add(self, name, arrays, weight):
        """Add w_k W_k of one layer to the sums."""
        indices = self.settings["indices"][name]
        values = dict(zip(indices, arrays, strict=True))
        for index, array in values.items():
            if index in self.settings["variances"]:
                term = weight * self.moment(array, values[self.settings["variances"][index]])
                self.sums[index] = self.sums.get(index, 0.0) + term
                continue
            if index not in self.sums:
                self.sums[index] = np.zeros(array.shape)
            sums, new = self.sums[index].reshape(-1), array.reshape(-1)
            for start in range(0, new.size, len(self.buffer)):  # piece by piece: faster, and no second copy of a layer
                piece = slice(start, start + len(self.buffer))
                term = self.buffer[: new[piece].size]
                np.multiply(new[piece], weight, out=term, dtype=np.float64)
                sums[piece] += term

    def distance(self, name, arrays=None):
        """Return |W_k - W|^2 of one layer, or |W|^2 without `arrays`; BatchNormalization's statistics are left out."""
        statistics = {*self.settings["variances"], *self.settings["variances"].values()}
        total = 0.0
        for place, index in enumerate(self.settings["indices"][name]):
            if index not in statistics:
                change = self.model[index] if arrays is None else arrays[place] - self.model[index]
                total += float(np.sum(np.square(change, dtype=np.float64)))
        return total

    def get_incremental_aggregate_model(self):
        """End a round: return the new global model.

        Raises RuntimeError, with which FEDn fails the round and keeps the global model, if there is none to return.
        """
        if self.aside:
            return self.end_others_round()
        if self.model is None:
            raise RuntimeError("fedn-partial: no update has arrived")
        if not self.merged:
            logger.warning(f"fedn-partial: round {self.state['round']}: no valid update, the global model stays")
        model = list(self.model)
        for name in self.weights:
            self.merge(name, model)
        self.state["known"] = [self.state["base"], self.digest(model)]
        self.end_round()
        return model

    def add_other(self, model, metadata):
        """Average a model of a session that is not this one, as FEDn does without server functions."""
        if not isinstance(metadata, dict) or "format" in metadata or "refused" in metadata:
            self.addressed = True
            return
        examples = metadata["num_examples"]
        total = self.all_examples + examples  # raises for text
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
            notes, note = self.state["previous"].setdefault("notes", []), f"after it, {self.stranger}"
            if note not in notes:
                notes.append(note)
            self.save_state()
            raise RuntimeError(f"fedn-partial: {self.stranger}")
        return average

    def merge(self, name, model):
        """Put the merged tensors of one layer into `model`, a list of which only these entries change."""
        weight, step = self.weights[name], self.step(name)
        variances = self.settings["variances"]
        done = {}
        for index in self.settings["indices"][name]:
            old = self.model[index].astype(np.float64)
            statistic = index in variances or index in variances.values()
            share = min(step, 1.0) if statistic else step
            mean = self.sums.pop(index) / weight
            if index in variances:
                moment = (1 - share) * self.moment(old, self.model[variances[index]]) + share * mean
                # Keras keeps the moving mean before the moving variance, so its merged value is there already.
                merged = np.maximum(moment - done[variances[index]] ** 2, 0.0)
            else:
                merged = mean if share == 1 else (1 - share) * old + share * mean
            done[index] = merged
            dtype = self.settings["model_dtype"] if merged.ndim > 1 else "float32"
            if share > 1:  # beyond what any client sent
                merged = np.clip(merged, -np.finfo(dtype).max, np.finfo(dtype).max)
            model[index] = merged.astype(dtype)
        if name in self.moved:
            size = self.distance(name)
            mean_moved = self.moved[name] / weight
            self.state["scores"][name] = (mean_moved / size) ** 0.5 if 0 < size < np.inf > mean_moved else 0.0

    def step(self, name):
        """Return how far one layer goes from the global model towards (or beyond) the mean of those who sent it."""
        rule, weight = self.settings["merge"], self.weights[name]
        if name not in self.settings["parameters"]:  # statistics that every client sent
            return 1.0
        if rule == "contributors":
            return 1.0
        if rule == "shrunk":
            return self.coverage[name] / (self.coverage[name] + self.settings["shrinkage"])
        return weight / self.all_examples

    def end_round(self):
        """Note coverage and staleness, and log them."""
        coverage = {name: self.coverage.get(name, 0) for name in self.settings["parameters"]}
        staleness = self.state["staleness"]
        staleness = {name: 0 if sent else staleness.get(name, 0) + 1 for name, sent in coverage.items()}
        self.state["staleness"] = staleness
        self.state["merged_rounds"] += 1 if self.merged else 0
        if self.uninvited:
            self.notes.append(f"{self.uninvited} updates of clients not asked")
        length = max(20, self.max_reasons // (len(self.skipped) + 1))
        self.state["previous"] = {
            "round": self.state["round"],
            "merged": self.merged,
            "skipped": {client: reason[:length] for client, reason in self.skipped.items()},
            "late": self.late,
            "notes": self.notes,
            "staleness": {name: age for name, age in staleness.items() if age},
        }
        self.save_state()
        covered = sum(1 for sent in coverage.values() if sent)
        stale = ", ".join(f"{name} {age}" for name, age in staleness.items() if age)
        logger.info(
            f"fedn-partial: round {self.state['round']}: {len(self.merged)} merged, {len(self.skipped)} skipped, "
            f"coverage {covered} of {len(staleness)} layers, rounds since last trained: {stale or 'none stale'}"
        )
        self.start_round()
        self.model = None

    def load_state(self):
        """Return what must outlive a restart of the hooks process: round, staleness and the like."""
        state = {
            "round": 0,
            "merged_rounds": 0,
            "base": "",  # digest of the global model that the last round started from
            "known": [self.settings["seed_model"]],  # digests of the global models that may come next
            "asked": [],
            "staleness": {},
            "previous": {},
            "names": {},
            "scores": {},
        }
        try:
            with open(self.state_path()) as file:
                found = json.load(file)
            if all(type(found[key]) is type(value) for key, value in state.items()):
                state = found
        except (OSError, ValueError, LookupError, TypeError) as error:
            if not isinstance(error, FileNotFoundError):
                logger.warning(f"fedn-partial: unusable session state, counting anew: {error!r}")
        return state

    def save_state(self):
        """Write the state beside FEDn's temporary models; without it a restarted hooks process counts from round 1."""
        try:
            with open(self.state_path() + ".new", "w") as file:
                json.dump(self.state, file)
            os.replace(self.state_path() + ".new", self.state_path())
        except OSError as error:
            logger.warning(f"fedn-partial: cannot keep the state of the session: {error}")

    def state_path(self):
        """Return the path of the state of this session."""
        import tempfile

        return os.path.join(tempfile.gettempdir(), f"fedn-partial-{self.settings['client']['session']}.json")


def session_settings(case: Case, layers: list[Layer], session: str, seed_model: str) -> dict:
    """Return the ``settings`` of the server functions for a session.

    Parameters
    ----------
    layers : layers of the global model.
    session : a name of its own, of letters and digits; its state is kept under it.
    seed_model : digest of the global model that it starts from, see ``fedn_partial.exchange.update.digest``.
    """
    selector = selection.from_dict(case.selection)
    parts = update_tensors(layers, case.batchnorm_statistics)
    place = {tensor.name: tensor.index for layer in layers for tensor in layer.tensors}
    return {
        "client": {
            "session": session,
            "seed": case.seed,
            "model": case.model,
            "selection": selection.to_dict(selector),
            "training": dataclasses.asdict(case.training),
            "codec": case.codec,
            "batchnorm_statistics": case.batchnorm_statistics,
            "round_timeout": case.session.round_timeout,
            "clients_per_round": case.session.clients_per_round,
        },
        "rounds": case.session.rounds,
        "seed_model": seed_model,
        "warmup_rounds": selector.warmup_rounds,
        "signal": selector.signal,
        "merge": case.merge,
        "shrinkage": case.shrinkage,
        "fingerprint": fingerprint(layers),
        "parameters": {layer.name: layer.parameters for layer in layers},
        "layers": shapes(parts),
        "model_dtype": case.model_dtype,
        "indices": {name: [tensor.index for tensor in tensors] for name, tensors in parts.items()},
        "variances": {
            index: place[name.replace("moving_variance", "moving_mean")]
            for name, index in place.items()
            if name.endswith("/moving_variance")
        },
    }


def read_settings(text: str) -> dict:
    """Return the settings in the source of server functions that ``source`` made.

    Raises
    ------
    ValueError : it is of another make.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "settings":
            return ast.literal_eval(node.value)
    raise ValueError("these server functions have no settings")


def source(settings: dict) -> str:
    """Return the source of a self-contained ``ServerFunctions`` class with `settings`, ready for FEDn."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(ServerFunctions)))
    body = []
    for node in tree.body[0].body:
        target = ast.unparse(getattr(node, "target", None) or getattr(node, "targets", [node])[0])
        if target == "settings":
            node = ast.parse(f"settings = {settings!r}").body[0]
        elif target in ("digest", "decode", "plain"):
            node = ast.parse(inspect.getsource(getattr(update, target))).body[0]
            node.decorator_list = [ast.Name("staticmethod")]
        body.append(node)
    tree.body[0].body = body
    for node in ast.walk(tree):  # every client downloads this text in every round: leave out what only people read
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
    return re.sub("^(    )+", lambda indent: " " * (len(indent[0]) // 4), ast.unparse(tree), flags=re.MULTILINE)
