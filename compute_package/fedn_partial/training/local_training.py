"""Training of the selected layers on this client's examples."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from fedn_partial.errors import FednPartialError
from fedn_partial.submodel.layers import Layer
from fedn_partial.training.step import Step, StepSettings, trace


class TrainingError(FednPartialError):
    """Training that failed, such as by a loss that is not finite."""


@dataclass(frozen=True)
class TrainResult:
    """Result of one round of local training.

    Attributes
    ----------
    loss : mean over the last epoch of the loss on the examples, without the step terms of the objective.
    """

    num_examples: int
    loss: float


def train(
    model,
    layers: list[Layer],
    selected: list[Layer],
    x,
    y,
    settings: StepSettings,
    order,
    phase=None,
    step: Step | None = None,
) -> TrainResult:
    """Train the layers `selected` in place; all others stay bit-equal.

    Without step terms this equals ``model.fit`` with the other layers frozen, to float32 rounding: frozen
    BatchNormalization runs in inference mode, gradients are computed for the selected variables only, back to the
    lowest of them, and a new optimizer has slots for them only.

    Parameters
    ----------
    model : built Keras model with the weights of the global model; the ``trainable`` flags of its layers are set.
    layers : all layers of `model`. selected : those to train.
    x : (examples, *input shape), uint8 images or inputs of the model. y : (examples,) classes.
    order : numpy Generator that shuffles each epoch, or None for the order of the examples.
    phase : function that returns a context manager for the phases "trace" and "train", or None.
    step : result of ``trace`` for the same model, layers, shape of examples and settings, or None to trace one.

    Raises
    ------
    TrainingError : no layer selected, or the loss is not finite.
    """
    phase = phase or (lambda name: nullcontext())
    if not selected:
        raise TrainingError("no layer selected")
    training, reused = settings.training, step is not None
    with phase("trace"):
        step = step or trace(model, layers, selected, x, settings)
    with phase("train"):
        if reused:
            step.reset()
        for _ in range(training.epochs):
            step.total_loss.assign(0.0)
            indices = np.arange(len(y)) if order is None else order.permutation(len(y))
            for start in range(0, len(y), training.batch_size):
                batch = indices[start : start + training.batch_size]
                step.run(x[batch], y[batch])
            loss = float(step.total_loss) / len(y)
            if not np.isfinite(loss):
                raise TrainingError(
                    f"training diverged (loss {loss}): lower learning_rate={training.learning_rate} or check the data"
                )
    del step
    if not reused:
        gc.collect()  # graphs of TensorFlow are cycles, which accumulate over the rounds of a process
    return TrainResult(num_examples=len(y), loss=loss)
