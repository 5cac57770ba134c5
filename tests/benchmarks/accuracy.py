"""Accuracy of the quickstart with each codec and each dtype of the global model, over three seeds.

The quickstart's clients, settings, training, wire and server functions, one after the other in this process; FEDn's
transport, which changes no value, is left out.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from fedn_partial import datasets, models, selection, settings, training, update
from fedn_partial.layers import fingerprint, tensor_list
from fedn_partial.residuals import residuals
from fedn_partial.seed_model import seed, server_functions

QUICKSTART = Path(__file__).parents[2] / "configs/quickstart.yaml"
SEEDS = (1, 2, 3)
WAYS = {
    "float32": {},
    "float16": {"codec": "float16"},
    "int8": {"codec": "int8"},
    "float32, model float16": {"model_dtype": "float16"},
    "int8, model float16": {"codec": "int8", "model_dtype": "float16"},
}


def run(case: settings.Case, folder: Path) -> tuple[float, int, int]:
    """Run a session; return the last model's accuracy, the bytes of all updates, and those of all models sent."""
    _, shards = datasets.deal_case(case.data, case.seed)
    table = seed.build_seed(case, folder / "seed.npz")
    weights = list(update.read_model(str(folder / "seed.npz")))
    model = models.build(case.model)
    server = _server(case, table, folder)
    up = down = 0
    for _ in range(case.session.rounds):
        told = server.client_settings(weights)
        for number, shard in enumerate(shards):
            path, sent, metadata = _train(case, model, table, weights, told, shard, f"client-{number + 1}", folder)
            up += sent
            down += 2 * sum(array.nbytes for array in weights)  # to train, and to validate
            with np.load(path) as archive:
                arrays = [archive[str(index)] for index in range(len(archive.files))]
            server.incremental_aggregate(str(number), arrays, json.loads(json.dumps(metadata)), weights)
        assert not server.skipped, server.skipped
        weights = server.get_incremental_aggregate_model()
    _put(model, weights)
    hits = sum(training.evaluate(model, shard.x_test, shard.y_test)[0] * len(shard.y_test) for shard in shards)
    return hits / sum(len(shard.y_test) for shard in shards), up, down


def _server(case, table, folder: Path):
    class Server(server_functions.ServerFunctions):
        settings = server_functions.session_settings(case, table, "benchmark")

        def state_path(self):
            return str(folder / "state.json")

    return Server()


def _train(case, model, table, weights, told, shard, client: str, folder: Path):
    import keras

    keras.utils.set_random_seed(case.seed * 1000 + told["round"])
    _put(model, weights)
    context = selection.Context(seed=case.seed, round=told["round"], client=client, warmup=told["warmup"])
    selected = selection.choose(selection.from_dict(case.selection), table, context)
    order = np.random.default_rng([case.seed, told["round"], *client.encode()])
    trained = training.train(model, table, selected, shard.x_train, shard.y_train, case.training, order)
    tensors, path = tensor_list(selected), str(folder / "update.npz")
    checksum = update.encode(
        path,
        [model.weights[tensor.index] for tensor in tensors],
        case.codec,
        base=[weights[tensor.index] for tensor in tensors],
        residuals=residuals(folder / client, "benchmark", tensors),
    )
    metadata = {
        "format": update.FORMAT,
        "model": fingerprint(table),
        "base": told["base"],
        "layers": [layer.name for layer in selected],
        "codec": case.codec,
        "checksum": checksum,
        "num_examples": str(trained.num_examples),
    }
    return path, os.path.getsize(path), metadata


def _put(model, weights) -> None:
    for variable, array in zip(model.weights, weights, strict=True):
        variable.assign(array)


def main() -> None:
    case = settings.load_case(QUICKSTART)
    print(f"{'codec':24}" + "".join(f"  seed {number:<4}" for number in SEEDS) + "    mean  up MB  down MB")
    for way, changes in WAYS.items():
        found = []
        for number in SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                found.append(run(dataclasses.replace(case, seed=number, **changes), Path(folder)))
        accuracies = [accuracy for accuracy, _, _ in found]
        up, down = (sum(one[index] for one in found) / len(found) / 1e6 for index in (1, 2))
        print(
            f"{way:24}"
            + "".join(f"  {accuracy:9.4f}" for accuracy in accuracies)
            + f"  {np.mean(accuracies):6.4f}  {up:5.1f}  {down:7.1f}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
