"""The server's side: time and memory of merging 100 full VGG16 updates, beside one pass `acc += n * w` in float64."""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from size import options

from fedn_partial import models
from fedn_partial.device.monitor import anonymous_memory
from fedn_partial.exchange import encoding, wire
from fedn_partial.seed_model import server_functions
from fedn_partial.settings.case import Case
from fedn_partial.submodel.layers import read_layers


def passes(weights) -> list[float]:
    """Return the seconds of some passes ``acc += n * w`` in float64."""
    accumulator = [np.zeros(array.shape) for array in weights]
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        for sums, array in zip(accumulator, weights, strict=True):
            sums += 10 * array.astype(np.float64)
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    logging.disable(logging.CRITICAL)
    updates, width = (2, 0.0625) if options(__doc__).parse_args().smallest else (100, 1)
    case = Case(name="merge", model={"name": "vgg16", "width": width}, selection={"selector": "all"})
    model = models.build(case.model)
    layers = read_layers(model)
    weights = model.get_weights()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/update"
        tensors = [tensor.index for layer in layers for tensor in layer.tensors]
        checksum = encoding.encode(path, [weights[index] for index in tensors])
        with np.load(path) as archive:
            update = [archive["0"], archive["1"]]

    settings = server_functions.session_settings(case, layers, f"benchmark{os.getpid()}", wire.digest(weights))
    plain = passes(weights)
    held = anonymous_memory([os.getpid()])  # with the model and the update in hand
    server = server_functions.load(server_functions.source(settings))()
    server.client_selection([str(number) for number in range(updates)])
    told = server.client_settings(weights)
    metadata = {
        "format": wire.FORMAT,
        "model": server.settings["fingerprint"],
        **{key: told[key] for key in ("base", "round")},
        "session": told["session_id"],
        "layers": [layer.name for layer in layers],
        "codec": case.codec,
        "num_examples": "10",
        "checksum": checksum,
    }
    seconds, highest = [], 0
    for number in range(updates):
        started = time.perf_counter()
        server.incremental_aggregate(str(number), update, metadata, weights)
        seconds.append(time.perf_counter() - started)
        highest = max(highest, anonymous_memory([os.getpid()]))
    assert len(server.merged) == updates, server.skipped
    server.get_incremental_aggregate_model()
    os.unlink(server.state_path())
    ours, theirs = statistics.median(seconds), statistics.median(plain)
    print("\n### Server: merging full VGG16 updates in float32\n")
    print("| | one update, ms | ratio to a pass | memory beyond model and update, MB | one accumulator, MB |")
    print("|---|---|---|---|---|")
    print(f"| `acc += n * w`, float64 | {1e3 * theirs:.0f} | 1 | | |")
    cells = [1e3 * ours, ours / theirs, (highest - held) / 1e6, 8 * sum(array.size for array in weights) / 1e6]
    print("| ours, checks and all | {:.0f} | {:.2f} | {:.0f} | {:.0f} |".format(*cells))


if __name__ == "__main__":
    main()
