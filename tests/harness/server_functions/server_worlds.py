"""Small models, clients and sessions for tests of the server functions; see hooks_harness."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np

from fedn_partial.exchange import wire
from fedn_partial.seed_model import server_functions
from fedn_partial.settings.case import Case
from fedn_partial.submodel.layers import read_layers, tensor_list
from server_functions.hooks_harness import Upload

PROVIDED = {"client_selection": True, "client_settings": True, "aggregate": False, "incremental_aggregate": True}


@dataclass(frozen=True)
class World:
    """A small model: its layers and a global model of random values."""

    layers: list
    model: list

    @property
    def names(self) -> list[str]:
        return [layer.name for layer in self.layers]

    def layer(self, name: str):
        return next(layer for layer in self.layers if layer.name == name)

    def tensor(self, name: str) -> int:
        """Return the index of a tensor."""
        return next(tensor.index for layer in self.layers for tensor in layer.tensors if tensor.name == name)


def make_world(*keras_layers) -> World:
    import keras

    layers = read_layers(keras.Sequential(keras_layers))
    return World(layers, random_model(layers, seed=0))


def random_model(layers, seed: int) -> list[np.ndarray]:
    """Return weights of the model, with moving variances above 0."""
    rng = np.random.default_rng(seed)
    model = []
    for tensor in tensor_list(layers):
        values = rng.normal(size=tensor.shape)
        model.append((values**2 + 0.1 if tensor.name.endswith("moving_variance") else values).astype(np.float32))
    return model


def session_source(layers, *, model=(), warmup_rounds=0, key="session", **changes) -> str:
    selection = {"selector": "uniform", "layers": 2, "warmup_rounds": warmup_rounds}
    case = Case(**{"name": "test", "model": {"name": "vgg16"}, "selection": selection, **changes})
    return server_functions.source(server_functions.session_settings(case, layers, key, wire.digest(model)))


def made(world, **options):
    """Return the server functions of a session, without FEDn; the fixture `start` says where they keep their state."""
    return server_functions.load(session_source(world.layers, **{"model": world.model, **options}))()


@dataclass(frozen=True)
class Client:
    """A client in one round: which layers it trained, to which weights, with how many examples."""

    name: str
    layers: list[str]
    examples: int
    weights: list  # of the whole model; only those of `layers` are sent


def client(world: World, name: str, trained=None, examples=10, seed=None) -> Client:
    """Return a client that trained the layers called `trained` (all, if None) to random weights."""
    weights = random_model(world.layers, seed=zlib.crc32(name.encode()) if seed is None else seed)
    return Client(name, world.names if trained is None else trained, examples, weights)


SELECTIONS = {
    "overlapping": [("a", ["conv0", "dense"], 30), ("b", ["dense"], 5), ("c", ["conv1", "dense"], 120)],
    "disjoint": [("a", ["conv0"], 1), ("b", ["conv1"], 2), ("c", ["dense"], 3)],
    "two of three send BatchNormalization": [("a", ["conv0"], 7), ("b", ["conv0", "conv1"], 400), ("c", ["dense"], 50)],
    "one client": [("a", ["conv0", "conv1"], 17)],
}


def with_metadata(**changes):
    """Return a change of an upload's metadata; a value of None leaves the key out."""

    def change(upload: Upload) -> Upload:
        metadata = {**upload.metadata, **changes}
        return Upload(
            upload.client_id, upload.data, {key: value for key, value in metadata.items() if value is not None}
        )

    return change


def read_upload(client_id: str, path: str) -> Upload:
    with open(path, "rb") as data, open(path + "-metadata") as metadata:
        return Upload(client_id, data.read(), json.load(metadata))


def whole(world: World, name: str, examples: int, seed: int) -> Upload:
    """Return the upload of one of FEDn's own clients: a whole model, compressed, and a number of examples."""
    file = BytesIO()
    np.savez_compressed(file, **{str(index): array for index, array in enumerate(random_model(world.layers, seed))})
    return Upload(f"id-{name}", file.getvalue(), {"num_examples": examples})
