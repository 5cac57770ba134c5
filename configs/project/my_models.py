"""The model of this project. The function's parameters are keys of `model:` in case.yaml."""

import keras
from keras import layers


def small_cnn(*, filters: int = 8, classes: int = 10) -> keras.Model:
    """Return a convolutional network for grey images of 28x28: 4 layers with weights."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(filters, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(2 * filters, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ]
    )
