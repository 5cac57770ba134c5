"""LSTM for human activity recognition from 36 features of home sensors (CASA data).

Alawadi et al. 2023, experiment 3: LSTM with 100 units on (1, 36), Dense 72, 50, 36, 28 and the output;
6 layers, 68,884 parameters with 10 classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedn_partial.settings.schema import bounded


@dataclass(frozen=True)
class Options:
    """The number of activities."""

    classes: int = bounded(10, at_least=2)


def build(options: Options):
    """Return the model: input (1, 36), output (classes,) probabilities."""
    import keras

    layers = keras.layers
    inputs = keras.Input((1, 36), name="features")
    x = layers.LSTM(100, name="lstm")(inputs)
    for index, units in enumerate((72, 50, 36, 28)):
        x = layers.Dense(units, activation="relu", name=f"dense{index}")(x)
    outputs = layers.Dense(options.classes, activation="softmax", name="output")(x)
    return keras.Model(inputs, outputs, name="lstm_har")
