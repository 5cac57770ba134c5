"""Server optimizer momentum."""

from __future__ import annotations

import numpy as np

from .base import ServerOptimizer


class Momentum(ServerOptimizer):
    """Heavy ball: v <- beta v + D, W += learning_rate v, tensor by tensor (FedAvgM, Hsu et al. 2019).

    Memory: one float32 model, while a round is merged.
    """

    keeps_arrays = True

    def begin(self, arrays):
        self.velocity = dict(arrays)

    def step(self, index, old, merged):
        settings, old = self.settings["client"]["server_optimizer"], old.astype(np.float64)
        velocity = merged - old
        if str(index) in self.velocity:
            velocity += settings["beta"] * self.velocity[str(index)]
        largest = np.finfo(np.float32).max
        self.velocity[str(index)] = np.clip(velocity, -largest, largest).astype(np.float32)
        return old + settings["learning_rate"] * velocity

    def end(self):
        velocity, self.velocity = self.velocity, {}
        return velocity
