"""Base of all step terms.

A step term changes the training step of every client. It is a frozen dataclass whose fields are the other keys of
``objective:``, and has no state of its own: the state of a round is a list of tensors from ``init``, which the step
keeps in variables. A term is called while TensorFlow traces the step, so it computes with TensorFlow's functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class StepTerm:
    """Base of all step terms; it changes nothing.

    Attributes
    ----------
    state_tensors : number of copies of the trained weights in the state; for the prediction of memory.
    """

    state_tensors: ClassVar[int] = 0

    def init(self, values: list, reference: list) -> list:
        """Return the initial state of a round, a list of tensors.

        Called before the step is traced, and again in every round that uses a traced step again.

        Parameters
        ----------
        values : variables of the trained weights.
        reference : tensors of the same weights in the global model of the round.
        """
        return []

    def gradients(self, gradients: list, values: list, state: list) -> list:
        """Return the gradients for the optimiser, given those of the loss.

        Parameters
        ----------
        gradients : one tensor for each of the variables `values`. state : variables of the state; may be assigned.
        """
        return gradients

    def constrain(self, values: list, state: list, learning_rate: float) -> None:
        """Assign the variables `values` after the optimiser's update; parameters as for ``gradients``."""
