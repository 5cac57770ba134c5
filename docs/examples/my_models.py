"""A model: a function that returns a Keras model. Its parameters have annotations or defaults."""

import keras
from keras import layers


def small_cnn(*, filters: int = 8, classes: int = 10, rate: float | None = None) -> keras.Model:
    """Return a convolutional network for images of 8x8."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(filters, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(2 * filters, 3, activation="relu"),
            layers.Flatten(),
            layers.Dropout(rate or 0.0),
            layers.Dense(classes, activation="softmax"),
        ]
    )
