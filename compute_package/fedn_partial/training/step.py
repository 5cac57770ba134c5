"""The traced training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedn_partial.settings.case import Training
from fedn_partial.submodel.layers import Layer
from fedn_partial.training import optimizers


def disable_graph_optimizer() -> None:
    """Disable TensorFlow's graph optimizer, which takes longer than it saves in a round."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@dataclass(frozen=True)
class Step:
    """A traced training step.

    Attributes
    ----------
    run : function of (examples, classes) that trains on one batch and adds its losses to `total_loss`.
    reset : function that sets the optimizer's slots to their initial values.
    """

    run: Callable
    total_loss: object
    reset: Callable[[], None]


def trace(
    model, layers: list[Layer], selected: list[Layer], x, training: Training, update_batchnorm: bool = False
) -> Step:
    """Trace a step that trains `selected` on batches of examples with the shape and dtype of `x`.

    Parameters
    ----------
    update_batchnorm : run frozen BatchNormalization in training mode, which normalises by the batch and updates its
        moving statistics.
    """
    import keras
    import tensorflow as tf

    disable_graph_optimizer()

    for layer in layers:
        for name in layer.keras_layers:
            keras_layer = model.get_layer(name)
            updates_batchnorm = update_batchnorm and isinstance(keras_layer, keras.layers.BatchNormalization)
            keras_layer.trainable = layer in selected or updates_batchnorm
    variables = [
        v for layer in selected for name in layer.keras_layers for v in model.get_layer(name).trainable_variables
    ]
    values = [variable.value for variable in variables]
    apply_gradients, slots = (optimizers.adam if training.optimizer == "adam" else optimizers.sgd)(values, training)
    loss_of = loss_function(model)
    total_loss = tf.Variable(0.0)

    # The batch size is None, so that the last, shorter batch causes no second trace.
    @tf.function(input_signature=signature(x))
    def step(images, classes):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            losses = loss_of(classes, model(scaled(images), training=True))
            loss = tf.reduce_mean(losses)
        apply_gradients([tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, values)])
        total_loss.assign_add(tf.reduce_sum(losses))

    step.get_concrete_function()
    return Step(step, total_loss, lambda: [slot.assign(initial) for slot, initial in slots])


def signature(x):
    """Return the input signature (examples, classes) of batches of any size."""
    import tensorflow as tf

    return (tf.TensorSpec((None, *x.shape[1:]), x.dtype), tf.TensorSpec((None,), tf.int32))


def scaled(x):
    """Scale uint8 images to [0, 1]; return other examples as they are."""
    import tensorflow as tf

    return tf.cast(x, tf.float32) / 255.0 if x.dtype == tf.uint8 else x


def loss_function(model):
    """Return the loss function per example: cross-entropy, binary if the model has a single output."""
    import keras

    if model.output.shape[-1] == 1:
        return lambda classes, outputs: keras.losses.binary_crossentropy(classes[:, None], outputs)
    return keras.losses.sparse_categorical_crossentropy
