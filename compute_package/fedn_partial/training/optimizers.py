"""Adam and SGD with TensorFlow's fused kernels and the formulas and defaults of Keras.

Keras' optimizer objects leak a trace of every step function in TensorFlow's gradient registry, 15 MB per round for
VGG16 at half width.
"""

from __future__ import annotations

import numpy as np

from fedn_partial.settings.case import Training

TENSORS_PER_LAYER = 4  # kernel, bias, and BatchNormalization's gamma and beta


def adam(variables, training: Training):
    """Return a function that applies gradients with Adam (Kingma & Ba 2015), and its slots with initial values."""
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


def sgd(variables, training: Training):
    """Return a function that applies gradients with SGD, and its slots (momentum, if any) with initial values."""
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
    """Yield (variable, its slots, its gradient) from output to input, after the gradients of the layer below.

    This frees gradients early, and applies none while the backward pass still reads the weights, which TensorFlow would
    copy.
    """
    import tensorflow as tf

    for index in reversed(range(len(variables))):
        with tf.control_dependencies(gradients[max(0, index - TENSORS_PER_LAYER) : index]):
            yield variables[index], slots[index], gradients[index]
