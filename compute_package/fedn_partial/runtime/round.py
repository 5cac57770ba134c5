"""One client's round, shared by devices and the simulator, with bit-equal updates."""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedn_partial.data.shard import check_fits, open_shard
from fedn_partial.device import costs
from fedn_partial.errors import ModelError
from fedn_partial.exchange import encoding, model_file, wire
from fedn_partial.log import log
from fedn_partial.runtime.atomic import WriteError
from fedn_partial.runtime.client_state import ClientState, Kind
from fedn_partial.settings.case import RoundSettings
from fedn_partial.submodel import selection
from fedn_partial.submodel.layers import Layer, Tensor, fingerprint, read_layers, tensor_list
from fedn_partial.submodel.update_tensors import tensors_of, update_tensors


class Client:
    """A client of a session. Devices and simulated clients override its methods.

    Parameters
    ----------
    name : of the client; seeds its selection of layers.
    shard : folder of its data.
    state : folder of its state between rounds, see ``fedn_partial.runtime.client_state``.
    max_layers : maximum number of layers trained in a round; None for no limit.
    """

    evaluation_batch = 32

    def __init__(self, name: str, shard: str | Path, state: Path, max_layers: int | None = None):
        self.name, self.shard, self.state, self.max_layers = name, shard, state, max_layers

    def context(self, settings: RoundSettings) -> selection.Context:
        """Return the input of the selector in this round."""
        return selection.Context(
            seed=settings.seed,
            round=settings.round,
            client=self.name,
            warmup=settings.warmup,
            max_layers=self.max_layers,
            merged_rounds=settings.merged_rounds,
            participants=settings.participants,
            scores=settings.scores,
        )

    def phase(self, name: str):
        """Return a context manager for one of the phases load, import, trace, train and encode of a round."""
        return nullcontext()

    def build_model(self, section: dict) -> tuple:
        """Return the Keras model of a `model:` section, with arbitrary weights, and its layers."""
        from fedn_partial import models

        model = models.build(section, empty=True)
        return model, read_layers(model)

    def select(self, layers: list[Layer], settings: RoundSettings, examples: int) -> selection.Selection:
        """Select the layers to train; `examples` is the size of the training set."""
        return selection.select(selection.from_dict(settings.selection), layers, self.context(settings))

    def training_step(self, model, layers: list[Layer], selected: list[Layer], x, settings: RoundSettings):
        """Return a step that is already traced, see ``fedn_partial.training.step.trace``, or None."""
        return None

    def evaluation_step(self, model, x):
        """Return a step that is already traced, see ``fedn_partial.training.evaluation.trace``, or None."""
        return None


@dataclass(frozen=True)
class RoundResult:
    """Result of a client's round.

    Attributes
    ----------
    metadata : of the update. state : of the client, with the arrays of this round; not yet committed.
    """

    selection: selection.Selection
    loss: float
    metadata: dict
    state: ClientState


def run_round(settings: RoundSettings, client: Client, model_path: str, update_path: str) -> RoundResult:
    """Train the selected layers of the global model on the client's examples and write the update.

    The caller ends the round with ``commit_round``.

    Parameters
    ----------
    model_path : file of the global model. update_path : file of the update, without its metadata.

    Raises
    ------
    FednPartialError : the model is not of this session, the data do not fit it, no layer is within the client's
        limits, or the training diverged.
    """
    with client.phase("load"):
        shard = open_shard(client.shard)
    with client.phase("import"):
        import tensorflow  # noqa: F401

        from fedn_partial.training import local_training
        from fedn_partial.training.step import StepSettings
    with client.phase("trace"):
        model, layers = _build_model(settings, client)
    with client.phase("load"):
        check_fits(shard, model)
        if wire.digest(load_model(model, layers, model_path)) != settings.base:
            raise ModelError(
                "the global model does not match the digest in the round settings; it was damaged or replaced"
            )
        state = ClientState(client.state, settings.session_id, settings.round)
        state.begin()
        _load_own_tensors(model, layers, settings, state)
    _seed_layers(model, settings, client.name)
    selected = client.select(layers, settings, len(shard.y_train))
    result = local_training.train(
        model,
        layers,
        selected.layers,
        shard.x_train,
        shard.y_train,
        StepSettings.of_round(settings),
        order=np.random.default_rng([settings.seed, settings.round, *client.name.encode()]),
        phase=client.phase,
        step=client.training_step(model, layers, selected.layers, shard.x_train, settings),
    )
    with client.phase("encode"):
        checksum = _write_update(update_path, model, layers, selected.layers, settings, model_path, state)
    metadata = {
        **_metadata(settings, layers, selected),
        "num_examples": result.num_examples,
        "client": client.name,
        "checksum": checksum,
        "train_loss": result.loss,
        "training_macs": costs.training_macs(layers, selected.layers) * result.num_examples * settings.training.epochs,
        "download_bytes": os.path.getsize(model_path),
    }
    return RoundResult(selected, result.loss, metadata, state)


def commit_round(result: RoundResult, update_path: str, **metadata) -> None:
    """Write the update's metadata, with `metadata` added, and replace the client's state."""
    _write_on_full_disk(result.state, lambda: encoding.write_metadata(update_path, {**result.metadata, **metadata}))
    result.state.commit()


def run_evaluation(settings: RoundSettings, client: Client, model_path: str) -> dict:
    """Evaluate the global model on the client's test examples.

    Returns
    -------
    Metrics: accuracy, loss (mean), test_examples, model_digest (see ``wire.short_digest``), download_bytes.

    Raises
    ------
    FednPartialError : the model is not of this session, or the data do not fit it.
    """
    from fedn_partial.training import evaluation

    shard = open_shard(client.shard)
    model, layers = _build_model(settings, client)
    check_fits(shard, model)
    digest = wire.digest(load_model(model, layers, model_path))
    # The state after this round: the model is the one that the round produced.
    _load_own_tensors(model, layers, settings, ClientState(client.state, settings.session_id, settings.round + 1))
    accuracy, loss = evaluation.evaluate(
        model, shard.x_test, shard.y_test, client.evaluation_batch, client.evaluation_step(model, shard.x_test)
    )
    return {
        "accuracy": accuracy,
        "loss": loss,
        "test_examples": len(shard.y_test),
        "model_digest": wire.short_digest(digest),
        "download_bytes": os.path.getsize(model_path),
    }


def load_model(model, layers: list[Layer], path: str) -> Iterator[np.ndarray]:
    """Yield the arrays of the global model at `path`, each checked and assigned to `model` (raises ModelError)."""
    for variable, array in zip(model.weights, model_file.read_model(path, tensor_list(layers)), strict=True):
        variable.assign(array)
        yield array


def _build_model(settings: RoundSettings, client: Client) -> tuple:
    model, layers = client.build_model(settings.model)
    if fingerprint(layers) != settings.fingerprint:
        raise ModelError(
            f"model {settings.model} has fingerprint {fingerprint(layers)}, expected {settings.fingerprint}: install "
            "the session's versions of fedn-partial and Keras"
        )
    return model, layers


def _seed_layers(model, settings: RoundSettings, client: str) -> None:
    """Seed dropout and other random layers by round and client, for reproducible runs."""
    for layer in model.layers:
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            name = f"{settings.seed}/{settings.round}/{client}/{layer.name}"
            generator.state.assign([zlib.crc32(name.encode()), 0])


def _own_tensors(layers: list[Layer], settings: RoundSettings) -> list[Tensor]:
    """Return the tensors that the client keeps and never sends (SiloBN, Andreux et al. 2020)."""
    if settings.batchnorm_statistics != "local":
        return []
    return [tensor for tensor in tensor_list(layers) if tensor.statistic]


def _load_own_tensors(model, layers: list[Layer], settings: RoundSettings, state: ClientState) -> None:
    """Assign the client's own tensors; those missing keep the values of the global model."""
    for tensor in _own_tensors(layers, settings):
        values = state.read(Kind.OWN, tensor)
        if values is not None:
            model.weights[tensor.index].assign(values)


def _write_update(
    path: str, model, layers: list[Layer], selected: list[Layer], settings: RoundSettings, base: str, state: ClientState
) -> int:
    """Write the update and return its checksum; `base` is the file of the global model."""
    sent = tensors_of(selected, update_tensors(layers, settings.batchnorm_statistics))
    tensors = [*itertools.chain(*sent.values())]

    def encode() -> int:
        return encoding.encode(
            path,
            [model.weights[tensor.index] for tensor in tensors],
            codec=settings.codec,
            base=model_file.read_model(base, tensor_list(layers), only=tensors),
            residuals=state.residuals(tensors),
        )

    try:
        for tensor in _own_tensors(layers, settings):
            state.write(Kind.OWN, tensor, np.asarray(model.weights[tensor.index]))
        return _write_on_full_disk(state, encode)
    except BaseException:
        state.discard()
        raise


def _write_on_full_disk(state: ClientState, write: Callable):
    """Return ``write()``; if the disk is full, give up the state after this round, and call it a second time."""
    try:
        return write()
    except WriteError:
        if not state.give_up():
            raise
        log("disk full: the client's state is not saved, the rounding errors of this update are lost")
        return write()


def _metadata(settings: RoundSettings, layers: list[Layer], selected: selection.Selection) -> dict:
    """Return the metadata from the settings and the selection, see ``encoding.write_metadata``."""
    metadata = {
        "model": settings.fingerprint,
        "base": settings.base,
        "round": settings.round,
        "session": settings.session_id,
        "codec": settings.codec,
        "layers": list(tensors_of(selected.layers, update_tensors(layers, settings.batchnorm_statistics))),
        "trained_params": sum(layer.parameters for layer in selected.layers),
        "total_params": sum(layer.parameters for layer in layers),
        "limited": selected.limited,
    }
    if settings.probabilities:
        probabilities = selection.probabilities(selection.from_dict(settings.selection), layers, selected.context)
        metadata["probabilities"] = {layer.name: round(probabilities[layer.name], 4) for layer in selected.layers}
    return metadata
