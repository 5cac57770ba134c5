"""The traced training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedn_partial.custom import modules
from fedn_partial.custom.errors import UserCodeError, at
from fedn_partial.settings.case import RoundSettings, Training
from fedn_partial.submodel.layers import Layer
from fedn_partial.training import optimizers, terms
from fedn_partial.training.terms.base import StepTerm


def disable_graph_optimizer() -> None:
    """Disable TensorFlow's graph optimizer, which takes longer than it saves in a round."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@dataclass(frozen=True)
class StepSettings:
    """Settings of a training step.

    Attributes
    ----------
    update_batchnorm : run frozen BatchNormalization in training mode, which normalises by the batch and updates its
        moving statistics.
    terms : applied in this order.
    """

    training: Training
    update_batchnorm: bool = False
    terms: tuple[StepTerm, ...] = ()

    @classmethod
    def of_round(cls, settings: RoundSettings) -> StepSettings:
        """Return the settings of the steps of a round (raises as ``terms.from_dict``)."""
        return cls(settings.training, settings.updates_frozen_batchnorm, terms.from_dict(settings.objective))


@dataclass(frozen=True)
class Step:
    """A traced training step.

    Attributes
    ----------
    run : function of (examples, classes) that trains on one batch and adds its losses, without terms, to `total_loss`.
    reset : function that sets the optimizer's slots to their initial values, and the state of the terms to that of a
        round which begins with the current weights of the model.
    """

    run: Callable
    total_loss: object
    reset: Callable[[], None]


def trace(model, layers: list[Layer], selected: list[Layer], x, settings: StepSettings) -> Step:
    """Trace a step that trains `selected` on batches of examples with the shape and dtype of `x`.

    `model` has the weights of the global model, to which terms refer.
    """
    import tensorflow as tf

    disable_graph_optimizer()
    values = _trained_variables(model, layers, selected, settings.update_batchnorm)
    training = settings.training
    apply_gradients, slots = (optimizers.adam if training.optimizer == "adam" else optimizers.sgd)(values, training)
    states = [_TermState(term, values) for term in settings.terms]
    loss_of = loss_function(model)
    total_loss = tf.Variable(0.0)

    # The batch size is None, so that the last, shorter batch causes no second trace.
    @tf.function(input_signature=signature(x))
    def step(images, classes):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            losses = loss_of(classes, model(scaled(images), training=True))
            loss = tf.reduce_mean(losses)
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, values)]
        for state in states:
            gradients = state.gradients(gradients)
        apply_gradients(gradients)
        for state in states:
            state.constrain(training.learning_rate)
        total_loss.assign_add(tf.reduce_sum(losses))

    step.get_concrete_function()

    def reset() -> None:
        for slot, initial in slots:
            slot.assign(initial)
        for state in states:
            state.reset()

    return Step(step, total_loss, reset)


class _TermState:
    """A term with its state in variables (methods raise UserCodeError where a custom term fails)."""

    def __init__(self, term: StepTerm, values: list):
        import tensorflow as tf

        self._term, self._values = term, values
        self._variables = [tf.Variable(tensor, trainable=False) for tensor in self._initial()]

    def reset(self) -> None:
        for variable, tensor in zip(self._variables, self._initial(), strict=True):
            variable.assign(tensor)

    def gradients(self, gradients: list) -> list:
        changed = self._call(self._term.gradients, gradients, self._values, self._variables)
        if len(changed) != len(gradients):
            method = at(type(self._term).gradients)
            raise UserCodeError(f"{method}: returned {len(changed)} gradients, expected {len(gradients)}")
        return changed

    def constrain(self, learning_rate: float) -> None:
        self._call(self._term.constrain, self._values, self._variables, learning_rate)

    def _initial(self) -> list:
        return self._call(self._term.init, self._values, [value.read_value() for value in self._values])

    def _call(self, method: Callable, *arguments):
        import tensorflow as tf

        with modules.calling(method):
            # AutoGraph would call generated code, which has no lines of the custom module.
            return tf.autograph.experimental.do_not_convert(method)(*arguments)


def _trained_variables(model, layers: list[Layer], selected: list[Layer], update_batchnorm: bool) -> list:
    """Set the ``trainable`` flags of the model's layers and return the variables that are trained."""
    import keras

    for layer in layers:
        for name in layer.keras_layers:
            keras_layer = model.get_layer(name)
            updates_batchnorm = update_batchnorm and isinstance(keras_layer, keras.layers.BatchNormalization)
            keras_layer.trainable = layer in selected or updates_batchnorm
    return [
        variable.value
        for layer in selected
        for name in layer.keras_layers
        for variable in model.get_layer(name).trainable_variables
    ]


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
