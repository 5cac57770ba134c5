"""What a client's part in a round is made of, for a device and for the simulator alike: both give the same update."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fedn_partial.device import costs
from fedn_partial.exchange import encoding, model_file
from fedn_partial.runtime import local_statistics
from fedn_partial.runtime.residuals import residuals
from fedn_partial.settings.case import RoundSettings
from fedn_partial.submodel import selection
from fedn_partial.submodel.layers import Layer, fingerprint, tensor_list
from fedn_partial.submodel.update_tensors import tensors_of, update_tensors
from fedn_partial.training import local_training
from fedn_partial.training.local_training import TrainResult


def context(settings: RoundSettings, client: str, max_layers: int | None = None) -> selection.Context:
    """Return what the selector of this round may look at."""
    return selection.Context(
        seed=settings.seed,
        round=settings.round,
        client=client,
        warmup=settings.warmup,
        max_layers=max_layers,
        merged_rounds=settings.merged_rounds,
        participants=settings.participants,
        scores=settings.scores,
    )


def order(settings: RoundSettings, client: str) -> np.random.Generator:
    """Return the generator that shuffles this client's examples in this round."""
    return np.random.default_rng([settings.seed, settings.round, *client.encode()])


def set_seed(model, settings: RoundSettings, client: str) -> None:
    """Let dropout and the like draw anew from this seed, round and client, so that a run can be repeated."""
    for layer in model.layers:
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            name = f"{settings.seed}/{settings.round}/{client}/{layer.name}"
            generator.state.assign([zlib.crc32(name.encode()), 0])


def load(model, layers: list[Layer], path: str) -> Iterator[np.ndarray]:
    """Yield the arrays of the global model at `path`, each put into `model` and checked (raises ModelError)."""
    for variable, array in zip(model.weights, model_file.read_model(path, tensor_list(layers)), strict=True):
        variable.assign(array)
        yield array


def train(
    model, layers: list[Layer], selected: list[Layer], shard, settings: RoundSettings, client: str, **options
) -> TrainResult:
    """Train `selected` on the client's `shard`; `options` are `phase` and `step` of ``local_training.train``."""
    return local_training.train(
        model,
        layers,
        selected,
        shard.x_train,
        shard.y_train,
        settings.training,
        order=order(settings, client),
        update_batchnorm=updates_batchnorm(settings),
        **options,
    )


def updates_batchnorm(settings: RoundSettings) -> bool:
    """Whether frozen BatchNormalization follows the batch, see ``fedn_partial.submodel.update_tensors``."""
    return settings.batchnorm_statistics != "with_layer"


def keeps(settings: RoundSettings) -> bool:
    """Whether a client keeps something from round to round."""
    return settings.codec not in ("float32", "float16") or settings.batchnorm_statistics == "local"


def put_own_statistics(model, layers: list[Layer], settings: RoundSettings, kept: Path) -> None:
    """Put the BatchNormalization statistics of this client into `model`, if the session leaves them to the clients.

    `kept` is the folder of what the client keeps from round to round.
    """
    if settings.batchnorm_statistics == "local":
        local_statistics.put(model, layers, kept / "statistics", settings.session)


def write_update(
    path: str, model, layers: list[Layer], selected: list[Layer], settings: RoundSettings, base: str, kept: Path
) -> int:
    """Write the update of a client that trained `selected` to `path` and return its checksum.

    Parameters
    ----------
    base : file of the global model that it started from. kept : folder of what the client keeps from round to round.
    """
    if settings.batchnorm_statistics == "local":
        local_statistics.keep(model, layers, kept / "statistics", settings.session)
    tensors = [*itertools.chain(*sent(layers, selected, settings).values())]
    return encoding.encode(
        path,
        [model.weights[tensor.index] for tensor in tensors],
        codec=settings.codec,
        base=model_file.read_model(base, tensor_list(layers), only=tensors),
        residuals=residuals(kept / "residuals", settings.session, tensors),
    )


def sent(layers: list[Layer], selected: list[Layer], settings: RoundSettings) -> dict[str, list]:
    """Return the tensors that the update of `selected` has, ``{name: [Tensor, ...]}``."""
    return tensors_of(selected, update_tensors(layers, settings.batchnorm_statistics))


def metadata(
    settings: RoundSettings,
    client: str,
    layers: list[Layer],
    selected: list[Layer],
    trained: TrainResult,
    checksum: int,
    context: selection.Context,
) -> dict:
    """Return the metadata of an update, see ``fedn_partial.exchange.encoding.write_metadata``.

    Parameters
    ----------
    checksum : of its values. context : the one that `selected` was chosen with, limits included.
    """
    known = {
        "num_examples": trained.num_examples,
        "model": fingerprint(layers),
        "base": settings.base,
        "round": settings.round,
        "session": settings.session,
        "client": client,
        "layers": list(sent(layers, selected, settings)),
        "codec": settings.codec,
        "checksum": checksum,
        "train_loss": trained.loss,
        "trained_params": sum(layer.parameters for layer in selected),
        "total_params": sum(layer.parameters for layer in layers),
        "training_macs": costs.training_macs(layers, selected) * trained.num_examples * settings.training.epochs,
    }
    if settings.probabilities:
        probable = selection.probabilities(selection.from_dict(settings.selection), layers, context)
        known["probabilities"] = {layer.name: round(probable[layer.name], 4) for layer in selected}
    return known
