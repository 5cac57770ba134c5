"""The server functions: what FEDn's hooks process runs for a session.

FEDn sends a class to its hooks process as source text, in which nothing of its module exists. So ``source``
makes a self-contained class of the one below: it puts in the session's settings, and the library functions in
place of the lines that refer to them. Tests and the simulator use the class as it stands here.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import textwrap

import numpy as np
from fedn.common.log_config import logger
from fedn.network.combiner.hooks.serverfunctionsbase import ServerFunctionsBase

from fedn_partial import layers, selection, update
from fedn_partial.parts import parts_of, shapes
from fedn_partial.settings import Case


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

    Memory: the previous global model, float64 sums of one model, and the update in hand.
    """

    settings: dict = {}  # see session_settings
    digest = staticmethod(update.digest)
    decode = staticmethod(update.decode)
    plain = staticmethod(update.plain)
    # More examples than a device could train on in a round; such a number would drown every other client.
    max_examples = 10_000_000
    least_probability = 0.1  # of a layer, with merge rule inverse_probability: no client counts more than tenfold

    def __init__(self):
        self.state = self.load_state()
        self.model = None  # the global model of this round
        self.base = None  # its digest
        self.asked = []  # FEDn's ids of the clients of this round
        self.start_round()

    def start_round(self):
        """Forget what was summed up."""
        self.buffer = np.empty(32768)
        self.sums = {}  # index of a tensor -> float64 sum of w_k W_k (variances: of w_k (var_k + mean_k ** 2))
        self.weights = {}  # layer -> sum of w_k of those who sent it; w_k is n_k, or n_k / p_kl
        self.all_examples = 0
        self.senders = set()  # ids of the clients that were merged
        self.coverage = {}  # layer -> how many clients sent it
        self.moved = {}  # layer -> sum of w_k |D_k|^2, if scores are wanted
        self.merged = []  # FEDn's ids of the clients that were merged
        self.skipped = {}  # FEDn's id of a client -> why it was not

    def client_selection(self, client_ids):
        """Return which of the connected clients are asked to train in the round that begins."""
        import random

        self.asked = sorted(client_ids)
        count = self.settings["clients_per_round"]
        if count is not None and count < len(self.asked):
            draw = random.Random(f"{self.settings['client']['seed']}/{self.state['round'] + 1}/clients")
            self.asked = sorted(draw.sample(self.asked, count))
        return self.asked

    def client_settings(self, global_model):
        """Begin a round: return what every client is told, see fedn_partial.settings.Instructions."""
        self.start_round()
        self.model = global_model
        self.base = self.digest(global_model)
        self.state["round"] += 1
        self.save_state()
        wanted = {}
        if self.settings["wants"] == "participants":
            names = self.state["names"]
            wanted = {"participants": sorted({names.get(client, client) for client in self.asked})}
        if self.settings["wants"] == "scores":
            wanted = {"scores": self.state["scores"]}
        return {
            **self.settings["client"],
            **wanted,
            "round": self.state["round"],
            "warmup": self.state["merged_rounds"] < self.settings["warmup_rounds"],
            "probabilities": self.settings["merge"] == "inverse_probability",
            "merged_rounds": self.state["merged_rounds"],
            "fingerprint": self.settings["fingerprint"],
            "base": self.base,
            "previous": self.state["previous"],
        }

    def incremental_aggregate(self, client_id, model, client_metadata, previous_global):
        """Add one client's update to the sums, or skip it and log why. Never raises on what a client sent."""
        client = client_id
        try:
            if previous_global is not self.model:
                self.model = previous_global
                self.base = self.digest(previous_global)
            if isinstance(client_metadata, dict):
                client = self.plain(client_metadata.get("client") or client_id, 100)
            examples, tensors, weights = self.check(client_id, model, client_metadata)
        except Exception as error:
            reason = self.plain(error, 500)
            # Every client is sent this, so it holds the server's words only; a device's own stay in the log.
            refused = isinstance(client_metadata, dict) and client_metadata.get("refused")
            self.skipped[client_id] = "it did not train" if refused else reason
            logger.warning(f"fedn-partial: round {self.state['round']}: skipped the update of {client}: {reason}")
            return
        for name, arrays in tensors.items():
            self.add(name, arrays, weights[name])
            self.weights[name] = self.weights.get(name, 0) + weights[name]
            self.coverage[name] = self.coverage.get(name, 0) + 1
            if self.settings["wants"] == "scores":
                self.moved[name] = self.moved.get(name, 0.0) + weights[name] * self.distance(name, arrays)
        if self.settings["wants"] == "participants":
            self.state["names"][client_id] = client
        self.all_examples += examples
        self.merged.append(client_id)
        self.senders.add(client_id)
        limited = client_metadata.get("limited")
        logger.info(
            f"fedn-partial: round {self.state['round']}: merged {len(tensors)} layers of {client}, {examples} examples"
            + (f"; it trained {self.plain(limited)}" if limited else "")
        )

    def check(self, client_id, model, metadata):
        """Return an update's number of examples, its tensors {layer: arrays}, and its weight in each layer.

        Raises ValueError if it must be skipped.
        """
        if isinstance(metadata, dict) and metadata.get("refused"):
            raise ValueError(f"it did not train: {metadata['refused']}")
        settings = self.settings
        base = {name: [self.model[index] for index in indices] for name, indices in settings["indices"].items()}
        codec = settings["client"]["codec"]
        tensors = self.decode(model, metadata, settings["fingerprint"], codec, settings["layers"], base)
        if metadata.get("base") != self.base:
            raise ValueError(f"started from model {metadata.get('base')!r}, this round's is {self.base!r} (too late?)")
        if client_id in self.senders:
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
        """End a round: return the new global model."""
        if self.model is None:
            raise RuntimeError("fedn-partial: no update has arrived; the global model stays as it is")
        if not self.merged:
            logger.warning(f"fedn-partial: round {self.state['round']}: no valid update, the global model stays")
        model = list(self.model)
        for name in self.weights:
            self.merge(name, model)
        self.end_round()
        return model

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
        self.state["previous"] = {
            "round": self.state["round"],
            "merged": self.merged,
            "skipped": self.skipped,
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
        self.model = self.base = None

    def load_state(self):
        """Return what must outlive a restart of the hooks process: round, staleness and the like."""
        import json

        state = {"round": 0, "merged_rounds": 0, "staleness": {}, "previous": {}, "names": {}, "scores": {}}
        try:
            with open(self.state_path()) as file:
                found = json.load(file)
            if all(type(found[key]) is type(value) for key, value in state.items()):
                state = found
        except (OSError, ValueError, LookupError, TypeError) as error:
            if not isinstance(error, FileNotFoundError):
                logger.warning(f"fedn-partial: the kept state of the session is unusable, counting anew: {error!r}")
        return state

    def save_state(self):
        """Write the state beside FEDn's temporary models; without it a restarted hooks process counts from round 1."""
        import json

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


def session_settings(case: Case, table, session: str) -> dict:
    """Return the ``settings`` of the server functions for a session.

    Parameters
    ----------
    table : layers of the global model.
    session : a name of its own, of letters and digits; its state is kept under it.
    """
    selector = selection.from_dict(case.selection)
    parts = parts_of(table, case.batchnorm_statistics)
    place = {tensor.name: tensor.index for layer in table for tensor in layer.tensors}
    return {
        "client": {
            "session": session,
            "seed": case.seed,
            "model": case.model,
            "selection": selection.to_dict(selector),
            "training": dataclasses.asdict(case.training),
            "codec": case.codec,
            "batchnorm_statistics": case.batchnorm_statistics,
        },
        "warmup_rounds": selector.warmup_rounds,
        "wants": selector.wants,
        "clients_per_round": case.session.clients_per_round,
        "merge": case.merge,
        "shrinkage": case.shrinkage,
        "fingerprint": layers.fingerprint(table),
        "parameters": {layer.name: layer.parameters for layer in table},
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
    return ast.unparse(tree)
