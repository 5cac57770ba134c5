"""Base of merge rules that see all updates of a layer at once."""

from __future__ import annotations

import numpy as np

from ..batchnorm import second_moment
from .base import BaseRule
from .spool import Spool

CHUNK = 65536  # values of each update in memory at once


class Stacked(BaseRule):
    """Entry by entry, a centre of the values of the clients that sent the layer, whatever their numbers of examples.

    With m clients in the round, m_l of which sent layer l, W_l += m_l / m (centre of W_k - W_l): as with
    ``all_clients``, clients that did not send a layer count as no change. So if all clients send a layer, it becomes
    the centre itself.

    The centre of BatchNormalization's moving variances is taken of the clients' second moments, so that it includes how
    far the clients' means are apart: variance = centre of (var_k + mean_k^2) - (centre of mean_k)^2, as pooling does
    with means. It is never negative, although the two centres may be of different clients: each client with a mean
    beyond the centre of the means has a second moment beyond its square.

    The updates are spooled to disk. Memory: some values of all clients.
    """

    spool = None

    def centre(self, values):
        """Return the centre of `values`, shape (clients, values), along the first axis as float64."""
        raise NotImplementedError

    def begin(self, round):
        super().begin(round)
        self.spool = Spool()

    def add(self, update):
        self.spool.add(update.tensors)

    def merge(self, name):
        senders = len(self.spool.senders[name])
        is_trained = name in self.round.settings["parameters"]  # otherwise statistics, sent by every client
        return self.step_towards(name, self.centres(name), senders / self.spool.updates if is_trained else 1.0)

    def centres(self, name):
        """Yield the centre of each tensor of a layer; for a moving variance of the second moments."""
        variances, indices = self.round.settings["variances"], self.round.settings["indices"][name]
        for position, index in enumerate(indices):
            shape, size = self.round.model[index].shape, self.round.model[index].size
            centre = np.empty(size)
            for start in range(0, size, CHUNK):
                stop = min(start + CHUNK, size)
                values = self.values(name, position, start, stop)
                if index in variances:
                    means = self.values(name, indices.index(variances[index]), start, stop)
                    values = second_moment(values, means)
                centre[start:stop] = self.centre(values)
            yield centre.reshape(shape)

    def values(self, name, position, start, stop):
        """Return values of a tensor of all clients that sent it, shape (clients, values)."""
        return np.stack([self.spool.read(sender, position, start, stop) for sender in self.spool.senders[name]])

    def end(self):
        super().end()
        if self.spool is not None:
            self.spool.close()
            self.spool = None
