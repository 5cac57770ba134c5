"""Resident memory over 20 rounds with different selections in one process: ours, and Keras' compile and fit.

Run it with 'make bench' or 'python tests/benchmarks/memory.py'. Each way runs in a process of its own, with the
same model (VGG16 at half width), images and selections. Printed: resident MB after each round and how much each
way grew from round 3 (by then every kind of memory has been used once) to the last.
"""

from __future__ import annotations

import multiprocessing
import os

from size import options

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def ours(connection, width: float, rounds: int) -> None:
    """One model for all rounds; a step made for each selection."""
    import numpy as np

    from fedn_partial import models
    from fedn_partial.settings.case import Training
    from fedn_partial.submodel.layers import read_layers
    from fedn_partial.training import local_training
    from fedn_partial.training.step import StepSettings

    model = models.build({"name": "vgg16", "width": width})
    layers, settings = read_layers(model), StepSettings(Training())
    x, y = _images()
    for round_ in range(1, rounds + 1):
        order = np.random.default_rng(round_)
        local_training.train(model, layers, _selection(layers, round_), x, y, settings, order)
        connection.send(_resident())


def keras_fit(connection, width: float, rounds: int) -> None:
    """As the paper's code: a model built, flagged, compiled and fitted in every round."""
    import keras

    from fedn_partial import models
    from fedn_partial.submodel.layers import read_layers

    x, y = _images()
    weights = None
    for round_ in range(1, rounds + 1):
        model = models.build({"name": "vgg16", "width": width})
        layers = read_layers(model)
        selected = _selection(layers, round_)
        for layer in layers:
            for name in layer.keras_layers:
                model.get_layer(name).trainable = layer in selected
        if weights:
            model.set_weights(weights)
        model.compile(keras.optimizers.Adam(0.001), "sparse_categorical_crossentropy")
        model.fit(x.astype("float32") / 255, y, batch_size=32, verbose=0)
        weights = model.get_weights()
        connection.send(_resident())


def _images():
    import numpy as np

    random = np.random.default_rng(1)
    return random.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8), random.integers(0, 10, 64).astype(np.int32)


def _selection(layers, round_: int):
    from fedn_partial.submodel.selection import Context, Random, select_layers

    return select_layers(Random(4, ("dense",)), layers, Context(seed=1, round=round_, client="benchmark"))


def _resident() -> float:
    import psutil

    return psutil.Process().memory_info().rss / 1e6


def measure(way, width: float, rounds: int) -> list[float]:
    """Run one way in a fresh process; return its resident MB after each round."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=way, args=(sender, width, rounds))
    process.start()
    sender.close()
    figures = []
    while True:
        try:
            figures.append(receiver.recv())
        except EOFError:
            break
    process.join()
    if process.exitcode or len(figures) != rounds:
        raise SystemExit(f"{way.__name__} ended after {len(figures)} rounds with exit code {process.exitcode}")
    return figures


def main() -> None:
    width, rounds = (0.0625, 3) if options(__doc__).parse_args().smallest else (0.5, 20)
    figures = {way.__name__: measure(way, width, rounds) for way in (ours, keras_fit)}
    print("round  " + "  ".join(f"{name:>9}" for name in figures) + "   resident MB")
    for index in range(rounds):
        print(f"{index + 1:5}  " + "  ".join(f"{values[index]:9.1f}" for values in figures.values()))
    growth = {name: values[-1] / values[2] for name, values in figures.items()}
    print(f"round {rounds} / round 3: " + ", ".join(f"{name} {ratio:.3f}" for name, ratio in growth.items()))
    print(f"ours / keras_fit at round {rounds}: {figures['ours'][-1] / figures['keras_fit'][-1]:.2f}")


if __name__ == "__main__":
    main()
