"""Convolution and LSTM for review sentiment (IMDB data).

Alawadi et al. 2023, Table 2: Embedding 20,000 x 128, Dropout 0.25, Conv1D 64 x 5, MaxPooling 4, LSTM 70, Dense.
The table's Dense has 2 outputs (2,638,966 parameters), the published code's one sigmoid output (2,638,895 parameters).
Both have 4 layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedn_partial.settings.schema import bounded


@dataclass(frozen=True)
class Options:
    """`vocabulary` is the number of word numbers including padding (0); `length` is the number of words of a review.

    `head` is "softmax" for the paper's 2 outputs, "sigmoid" for the published code's single output.
    """

    vocabulary: int = bounded(20000, at_least=2)
    length: int = bounded(100, at_least=8)  # a convolution of 5 and a pooling of 4 leave one step
    head: str = bounded("softmax", one_of=("softmax", "sigmoid"))


def build(options: Options):
    """Return the model: input (length,) word numbers, output (2,) probabilities or, for `sigmoid`, (1,)."""
    import keras

    layers = keras.layers
    inputs = keras.Input((options.length,), dtype="int32", name="words")
    x = layers.Embedding(options.vocabulary, 128, name="embedding")(inputs)
    x = layers.Dropout(0.25)(x)
    x = layers.Conv1D(64, 5, activation="relu", name="conv")(x)
    x = layers.MaxPooling1D(4)(x)
    x = layers.LSTM(70, name="lstm")(x)
    if options.head == "softmax":
        outputs = layers.Dense(2, activation="softmax", name="output")(x)
    else:
        outputs = layers.Dense(1, activation="sigmoid", name="output")(x)
    return keras.Model(inputs, outputs, name="text_cnn")
