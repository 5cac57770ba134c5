"""VGG16 for 32x32 images, with BatchNormalization after every convolution.

Alawadi et al. 2023, Table 1: 14 layers, 14,736,714 parameters at width 1.0; 3,691,178 at width 0.5, the lighter version
of their Jetson Nano runs (section 5.2.7).
"""

from __future__ import annotations

from dataclasses import dataclass

from fedn_partial.settings.schema import bounded

# Output channels of each convolution at width 1.0; "M" is a 2x2 max-pooling.
PLAN = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


@dataclass(frozen=True)
class Options:
    """`width` multiplies every convolution's channels.

    `batchnorm_momentum` is the weight of the old moving statistics in each step. Keras' default 0.99 adapts in some
    hundred steps, more than a round on a small shard has.
    """

    width: float = bounded(1.0, at_least=1 / 64, at_most=4)
    classes: int = bounded(10, at_least=2)
    batchnorm_momentum: float = bounded(0.9, at_least=0, below=1)


def build(options: Options):
    """Return the model: input (32, 32, 3), output (classes,) probabilities."""
    import keras

    layers = keras.layers
    x = inputs = keras.Input((32, 32, 3), name="image")
    convolutions = 0
    for step in PLAN:
        if step == "M":
            x = layers.MaxPooling2D(2)(x)
            continue
        name = f"conv{convolutions}"
        x = layers.Conv2D(max(1, round(step * options.width)), 3, padding="same", name=name)(x)
        x = layers.BatchNormalization(momentum=options.batchnorm_momentum, name=f"{name}_bn")(x)
        x = layers.Activation("relu")(x)
        convolutions += 1
    x = layers.Flatten()(x)
    outputs = layers.Dense(options.classes, activation="softmax", name="dense")(x)
    return keras.Model(inputs, outputs, name="vgg16")
