"""Fixtures of the tests of the server functions, for the conftest.py of their folders."""

from __future__ import annotations

import tempfile

import pytest
from fedn.network.combiner import modelservice
from residual_files import residuals

from fedn_partial.exchange import encoding, wire
from fedn_partial.submodel.layers import fingerprint, pick
from fedn_partial.submodel.update_tensors import tensors_of, update_tensors
from server_functions.hooks_harness import Combiner, Upload
from server_functions.server_worlds import Client, World, make_world, read_upload, session_source

PROBABLE = {"conv0": 0.25, "conv1": 0.5, "dense": 0.05}  # said by every client; only one merge rule asks


@pytest.fixture(scope="session")
def normalised() -> World:
    """Convolution, BatchNormalization, convolution, dense: three layers."""
    from keras import Input
    from keras.layers import BatchNormalization, Conv2D, Dense, Flatten

    return make_world(
        Input((6, 6, 1)),
        Conv2D(3, 3, name="conv0"),
        BatchNormalization(name="conv0_bn"),
        Conv2D(2, 3, name="conv1"),
        Flatten(),
        Dense(4, name="dense"),
    )


@pytest.fixture(scope="session")
def plain() -> World:
    """A model without BatchNormalization."""
    from keras import Input
    from keras.layers import Conv2D, Dense, Flatten

    return make_world(Input((5, 5, 1)), Conv2D(2, 3, name="conv"), Flatten(), Dense(3, name="dense"))


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start sessions: a function that returns a combiner. All that FEDn and the session keep lies in tmp_path."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("FEDN_MODEL_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(modelservice, "CHUNK_SIZE", 512)  # so that also these models travel in many chunks
    return lambda world, **options: Combiner(session_source(world.layers, **{"model": world.model, **options}))


@pytest.fixture
def send(tmp_path):
    """Write clients' updates as devices do: a function that returns their uploads."""

    def send(world: World, *clients: Client, base=None, codec="float32", statistics="with_layer") -> list[Upload]:
        uploads = []
        parts = update_tensors(world.layers, statistics)
        base = world.model if base is None else base
        for sender in clients:
            path = str(tmp_path / f"update-{sender.name}")
            selected = pick(world.layers, sender.layers)
            sent = tensors_of(selected, parts)
            tensors = [tensor for name in sent for tensor in sent[name]]
            checksum = encoding.encode(
                path,
                [sender.weights[tensor.index] for tensor in tensors],
                codec,
                base=[base[tensor.index] for tensor in tensors],
                residuals=residuals(tmp_path / "residuals", sender.name, tensors),
            )
            encoding.write_metadata(
                path,
                {
                    "num_examples": sender.examples,
                    "model": fingerprint(world.layers),
                    "base": wire.digest(base),
                    "client": sender.name,
                    "layers": list(sent),
                    "codec": codec,
                    "checksum": checksum,
                    "probabilities": PROBABLE,
                    "resources": {"seconds": 1.5},
                },
            )
            uploads.append(read_upload(f"id-{sender.name}", path))
        return uploads

    return send
