"""Training of the selected layers on this device's data, and testing of the global model."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from fedn_partial.errors import FednPartialError
from fedn_partial.settings.case import Training
from fedn_partial.submodel.layers import Layer

TENSORS_A_LAYER = 4  # kernel, bias, and BatchNormalization's gamma and beta


class TrainingError(FednPartialError):
    """Training that cannot go on, such as a loss that is not finite."""


@dataclass(frozen=True)
class TrainResult:
    """What one round of training saw."""

    num_examples: int
    loss: float  # mean over the last epoch


def train(
    model,
    layers: list[Layer],
    selected: list[Layer],
    x,
    y,
    training: Training,
    order,
    phase=None,
    update_batchnorm=False,
    step=None,
) -> TrainResult:
    """Train the layers in `selected` in place, all others stay bit-equal.

    Equal, to float32 rounding, to ``model.fit`` with the other layers frozen: frozen BatchNormalization runs in
    inference mode, the gradient is taken with respect to the selected variables only, so it stops at the lowest
    of them, and the optimiser is made fresh, with slots for them alone.

    Parameters
    ----------
    model : built Keras model. Its layers' ``trainable`` flags are set as `selected` says.
    layers : all layers of `model`; `selected` : those to train.
    x : (examples, *input shape), uint8 images or what the model takes. y : (examples,) classes.
    order : numpy Generator that shuffles each epoch, or None to keep the order of the examples.
    phase : function that returns a context manager for the phases "trace" and "train", or None.
    update_batchnorm : see ``trace``.
    step : what ``trace`` made of the same model, layers, kind of examples and settings, to be used again; or None.

    Raises
    ------
    TrainingError : nothing to train, or the loss is not finite.
    """
    phase = phase or (lambda name: nullcontext())
    if not selected:
        raise TrainingError("no layer selected")
    kept = step
    with phase("trace"):
        step = kept or trace(model, layers, selected, x, training, update_batchnorm)
    with phase("train"):
        if kept:
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
                    f"the loss became {loss}: learning rate {training.learning_rate} is too high, "
                    "or the data are damaged"
                )
    del step
    if not kept:
        gc.collect()  # TensorFlow's graphs are cycles; in a process that trains round after round they would pile up
    return TrainResult(num_examples=len(y), loss=loss)


def _leave_graphs_as_they_are() -> None:
    """Turn TensorFlow's graph optimiser off: it takes longer than it saves in a round, and a graph lives no longer."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@dataclass(frozen=True)
class Step:
    """A traced training step: ``run(images, classes)`` trains on a batch and adds its losses to `total_loss`.

    ``reset`` makes the optimiser fresh again.
    """

    run: Callable
    total_loss: object
    reset: Callable[[], None]


def trace(
    model, layers: list[Layer], selected: list[Layer], x, training: Training, update_batchnorm: bool = False
) -> Step:
    """Return the step that trains `selected` on batches of examples like those of `x`.

    Parameters
    ----------
    update_batchnorm : run frozen BatchNormalization in training mode: it normalises by the batch and updates its moving
        statistics.
    """
    import keras
    import tensorflow as tf

    _leave_graphs_as_they_are()

    for layer in layers:
        for name in layer.keras_layers:
            keras_layer = model.get_layer(name)
            updates_batchnorm = update_batchnorm and isinstance(keras_layer, keras.layers.BatchNormalization)
            keras_layer.trainable = layer in selected or updates_batchnorm
    variables = [
        v for layer in selected for name in layer.keras_layers for v in model.get_layer(name).trainable_variables
    ]
    values = [variable.value for variable in variables]
    apply_gradients, slots = (_adam if training.optimizer == "adam" else _sgd)(values, training)
    loss_of = _loss(model)
    total_loss = tf.Variable(0.0)

    # The number of examples is left open: the last, shorter batch must not cause a second trace.
    @tf.function(input_signature=_signature(x))
    def step(images, classes):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            losses = loss_of(classes, model(_scaled(images), training=True))
            loss = tf.reduce_mean(losses)
        apply_gradients([tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, values)])
        total_loss.assign_add(tf.reduce_sum(losses))

    step.get_concrete_function()
    return Step(step, total_loss, lambda: [slot.assign(fresh) for slot, fresh in slots])


# The optimisers are TensorFlow's fused kernels, with Keras' formulas and defaults. Keras' own objects leave a trace
# of every step function in TensorFlow's registry of gradients, 15 MB a round for VGG16 at half width.


def _adam(variables, training: Training):
    """Return the function that applies gradients by Adam (Kingma & Ba 2015), and its slots with their fresh values."""
    import tensorflow as tf

    beta1, beta2, epsilon = 0.9, 0.999, 1e-7
    moments = [(tf.Variable(tf.zeros_like(v)), tf.Variable(tf.zeros_like(v))) for v in variables]
    power1, power2 = tf.Variable(1.0), tf.Variable(1.0)

    def apply(gradients):
        power1.assign(power1 * beta1)
        power2.assign(power2 * beta2)
        for variable, (first, second), gradient in _last_first(variables, moments, gradients):
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=first.handle,
                v=second.handle,
                beta1_power=power1,
                beta2_power=power2,
                lr=training.learning_rate,
                beta1=beta1,
                beta2=beta2,
                epsilon=epsilon,
                grad=gradient,
            )

    return apply, [(power1, 1.0), (power2, 1.0), *_zeroed(slot for pair in moments for slot in pair)]


def _sgd(variables, training: Training):
    """Return the function that applies gradients by SGD, and its slots (momentum, if any) with their fresh values."""
    import tensorflow as tf

    momenta = [tf.Variable(tf.zeros_like(v)) for v in variables] if training.momentum else [None] * len(variables)

    def apply(gradients):
        for variable, momentum, gradient in _last_first(variables, momenta, gradients):
            if momentum is None:
                variable.assign_sub(training.learning_rate * gradient)
            else:
                tf.raw_ops.ResourceApplyKerasMomentum(
                    var=variable.handle,
                    accum=momentum.handle,
                    lr=training.learning_rate,
                    grad=gradient,
                    momentum=training.momentum,
                )

    return apply, _zeroed(momentum for momentum in momenta if momentum is not None)


def _zeroed(slots):
    return [(slot, np.broadcast_to(np.float32(0), slot.shape)) for slot in slots]


def _last_first(variables, slots, gradients):
    """Yield (variable, its slots, its gradient) from output to input, each to be applied when the next are there.

    So that few gradients live at once, and none is applied while the backward pass still reads the old weights:
    TensorFlow would copy them.
    """
    import tensorflow as tf

    for index in reversed(range(len(variables))):
        with tf.control_dependencies(gradients[max(0, index - TENSORS_A_LAYER) : index]):
            yield variables[index], slots[index], gradients[index]


def evaluate(model, x, y, batch_size: int = 32, step=None) -> tuple[float, float]:
    """Return accuracy (share of correct predictions) and mean loss of `model` on x (examples, ...), y (examples,).

    `step` is what ``trace_evaluation`` made of the same model and kind of examples, to be used again; or None.
    """
    step = step or trace_evaluation(model, x)
    correct, total = 0.0, 0.0
    for start in range(0, len(y), batch_size):
        hits, loss = step(x[start : start + batch_size], y[start : start + batch_size])
        correct, total = correct + float(hits), total + float(loss)
    return correct / len(y), total / len(y)


def trace_evaluation(model, x):
    """Return the function that gives the hits and the sum of losses of a batch of examples like those of `x`."""
    import tensorflow as tf

    _leave_graphs_as_they_are()
    loss_of = _loss(model)

    @tf.function(input_signature=_signature(x))
    def step(images, classes):
        predictions = model(_scaled(images), training=False)
        if predictions.shape[-1] == 1:
            hits = tf.cast(predictions[:, 0] > 0.5, tf.int32) == classes
        else:
            hits = tf.argmax(predictions, axis=-1, output_type=tf.int32) == classes
        return tf.reduce_sum(tf.cast(hits, tf.float32)), tf.reduce_sum(loss_of(classes, predictions))

    return step


def _signature(x):
    import tensorflow as tf

    return (tf.TensorSpec((None, *x.shape[1:]), x.dtype), tf.TensorSpec((None,), tf.int32))


def _scaled(x):
    """Images arrive as uint8, to keep them small, and are scaled to [0, 1] here."""
    import tensorflow as tf

    return tf.cast(x, tf.float32) / 255.0 if x.dtype == tf.uint8 else x


def _loss(model):
    """Return the loss of each example: cross-entropy, binary if the model has a single output."""
    import keras

    if model.output.shape[-1] == 1:
        return lambda classes, outputs: keras.losses.binary_crossentropy(classes[:, None], outputs)
    return keras.losses.sparse_categorical_crossentropy
