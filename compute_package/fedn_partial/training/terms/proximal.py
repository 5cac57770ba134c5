"""The proximal term of FedProx."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedn_partial.settings.schema import bounded
from fedn_partial.training.terms.base import StepTerm


@dataclass(frozen=True)
class Proximal(StepTerm):
    """Proximal term of FedProx (Li et al. 2020, equation 2): (mu / 2) ||w - w_t||^2 is added to the loss.

    w are the trained weights and w_t those of the global model of the round. The gradient for the optimiser is that of
    the loss plus mu (w - w_t), so it is part of the momentum and of Adam's moments. With `decoupled` the optimiser gets
    the gradient of the loss alone, and learning_rate mu (w - w_t) is subtracted from w after its update, as AdamW does
    with weight decay (Loshchilov & Hutter 2019). With SGD without momentum the two differ by terms of order
    learning_rate^2.
    """

    mu: float = bounded(at_least=0, at_most=1e6)
    decoupled: bool = False

    state_tensors: ClassVar[int] = 1

    def init(self, values: list, reference: list) -> list:
        return reference

    def gradients(self, gradients: list, values: list, state: list) -> list:
        if self.decoupled:
            return gradients
        return [self._add(*tensors) for tensors in zip(gradients, values, state, strict=True)]

    def constrain(self, values: list, state: list, learning_rate: float) -> None:
        if self.decoupled:
            for w, w_t in zip(values, state, strict=True):
                w.assign_sub(learning_rate * self.mu * (w - w_t))

    def _add(self, gradient, w, w_t):
        """Return the gradient of the loss plus that of the term."""
        import tensorflow as tf

        # Without this TensorFlow may compute the differences of all weights before the forward pass, and keep them.
        with tf.control_dependencies([gradient]):
            return gradient + self.mu * (w - w_t)
