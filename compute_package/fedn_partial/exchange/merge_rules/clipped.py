"""Merge rule clipped."""

from __future__ import annotations

import math

import numpy as np

from ..changes import CHUNK, difference_norm, squared_norm
from .all_clients import AllClients
from .spool import Spool

HISTORY = 20  # norms that are kept of each part
ENOUGH = 3  # clients whose median norm one wrong client cannot determine


class Clipped(AllClients):
    """The rule all_clients, with limited norms of the changes.

    A client's change of a layer is scaled to at most `clip` times the median of the last norms of that layer's changes,
    which clients made in earlier rounds. The norms are those after clipping, so that a wrong client hardly raises the
    limit. BatchNormalization's moving means and variances are clipped likewise, each by its own norms: in a norm
    together with the kernels a wrong variance might not be noticed. A clipped variance lies between the global one and
    the client's, so it is never negative.

    Updates of a layer without earlier norms are spooled to disk and clipped at the end of the round: by the median of
    their own norms if three or more clients sent the layer, otherwise by the norm of the global layer itself (of a
    moving mean: of the standard deviations). The latter alone would not do: an honest first change may be as large as a
    freshly initialised layer, and one that flips all signs is only twice as large.

    Where a share f of the clients is wrong in every round, the others win back what these move only if `clip` is below
    (1 - f) / f, as their own changes grow with the distance and raise the limit: below 2 for one of three clients.

    Memory: float64 sums of one model.
    """

    spool = None

    def begin(self, round):
        super().begin(round)
        self.norms = {}  # part -> norms of the changes in this round, after clipping
        self.spool = Spool()
        self.spooled = {}  # layer -> [(weight, norms)] of its updates on disk

    def add(self, update):
        limits = {name: [self.limit(part) for part, _ in self.parts(name)] for name in update.tensors}
        new = {name: arrays for name, arrays in update.tensors.items() if None in limits[name]}
        if new:
            self.spool.add(new)
        for name, arrays in update.tensors.items():
            norms = self.change_norms(name, arrays)
            if name in new:
                self.spooled.setdefault(name, []).append((update.weights[name], norms))
            else:
                self.add_clipped(name, arrays, update.weights[name], norms, limits[name])
        self.all_examples += update.examples

    def merge(self, name):
        spooled = self.spooled.pop(name, [])
        limits = [self.first_limit(name, n, [norms[n] for _, norms in spooled]) for n in range(len(self.parts(name)))]
        for sender, (weight, norms) in zip(self.spool.senders.get(name, ()), spooled, strict=True):
            shapes = [self.round.model[index].shape for index in self.round.settings["indices"][name]]
            arrays = [
                self.spool.read(sender, position, 0, math.prod(shape)).reshape(shape)
                for position, shape in enumerate(shapes)
            ]
            self.add_clipped(name, arrays, weight, norms, limits)
        for part, _ in self.parts(name):
            self.round.memory[part] = (self.round.memory.get(part, []) + self.norms.get(part, []))[-HISTORY:]
        return super().merge(name)

    def end(self):
        super().end()
        if self.spool is not None:
            self.spool.close()
            self.spool = None

    def parts(self, name):
        """Return what is clipped together in a layer, [(part, positions of its tensors)]."""
        settings = self.round.settings
        indices, variances = settings["indices"][name], settings["variances"]
        moving = [n for n, index in enumerate(indices) if index in variances or index in variances.values()]
        trained = [n for n in range(len(indices)) if n not in moving]
        return [(name, trained)] * bool(trained) + [(f"{name}/{indices[n]}", [n]) for n in moving]

    def change_norms(self, name, arrays):
        """Return the norm of the change of each part of a layer."""
        old = [self.round.model[index] for index in self.round.settings["indices"][name]]
        return [
            math.hypot(*(difference_norm(arrays[n], old[n]) for n in positions)) for _, positions in self.parts(name)
        ]

    def limit(self, part):
        """Return the largest norm of a change of `part`, or None if there are no earlier norms."""
        norms = self.round.memory.get(part)
        return self.settings["client"]["clip"] * float(np.median(norms)) if norms else None

    def first_limit(self, name, number, norms):
        """Return the largest norm of a change of a layer's part without earlier norms; `norms` are of this round."""
        part, positions = self.parts(name)[number]
        limit = self.limit(part)
        if limit is None and len(norms) >= ENOUGH:
            limit = self.settings["client"]["clip"] * float(np.median(norms))
        return limit or self.size(name, positions) or math.inf  # a layer that is 0 may begin with any change

    def size(self, name, positions):
        """Return the norm of the global model's part, for a moving mean that of the standard deviations."""
        model, indices = self.round.model, self.round.settings["indices"][name]
        deviations = {mean: variance for variance, mean in self.round.settings["variances"].items()}
        if indices[positions[0]] in deviations:
            return math.sqrt(float(np.sum(model[deviations[indices[positions[0]]]], dtype=np.float64)))
        return math.sqrt(squared_norm(model[indices[n]] for n in positions))

    def add_clipped(self, name, arrays, weight, norms, limits):
        """Add one layer of an update to the sums, with changes of at most `limits`."""
        arrays, indices = list(arrays), self.round.settings["indices"][name]
        for (part, positions), norm, limit in zip(self.parts(name), norms, limits, strict=True):
            for n in positions if norm > limit else ():
                arrays[n] = self.scaled(arrays[n], self.round.model[indices[n]], limit / norm)
            if norm > 0:  # a client without a change says nothing about the others' changes
                self.norms.setdefault(part, []).append(min(norm, limit))
        self.add_layer(name, arrays, weight)

    def scaled(self, new, old, scale):
        """Return old + scale (new - old) as float32."""
        result, values, base = np.empty(new.shape, np.float32), new.reshape(-1), old.reshape(-1)
        for start in range(0, values.size, CHUNK):
            chunk = slice(start, start + CHUNK)
            term = self.buffer[: values[chunk].size]
            np.subtract(values[chunk], base[chunk], out=term, dtype=np.float64)
            term *= scale
            term += base[chunk]
            result.reshape(-1)[chunk] = term
        return result
