"""A step term: a frozen dataclass whose fields are the other keys of `objective:`. It uses TensorFlow's functions."""

from dataclasses import dataclass

from fedn_partial.settings.schema import bounded
from fedn_partial.training.terms.base import StepTerm


@dataclass(frozen=True)
class ClipNorm(StepTerm):
    """Scale the gradients of a batch to a global norm of at most `norm`."""

    norm: float = bounded(1.0, above=0)

    def gradients(self, gradients, values, state):
        """Return the gradients for the optimiser; `constrain` may change the weights after its update."""
        import tensorflow as tf

        return tf.clip_by_global_norm(gradients, self.norm)[0]
