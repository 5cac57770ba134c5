"""What a client's part in a round is made of, for a device and for the simulator alike: both give the same update."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fedn_partial.device import costs
from fedn_partial.exchange import update
from fedn_partial.runtime import local_statistics
from fedn_partial.runtime.residuals import residuals
from fedn_partial.settings.case import Instructions
from fedn_partial.submodel import selection
from fedn_partial.submodel.layers import Layer, fingerprint, tensor_list
from fedn_partial.submodel.parts import parts_of, sent_by
from fedn_partial.training import local_training
from fedn_partial.training.local_training import Trained


def context(instructions: Instructions, client: str, max_layers: int | None = None) -> selection.Context:
    """Return what the selector of this round may look at."""
    return selection.Context(
        seed=instructions.seed,
        round=instructions.round,
        client=client,
        warmup=instructions.warmup,
        max_layers=max_layers,
        merged_rounds=instructions.merged_rounds,
        participants=instructions.participants,
        scores=instructions.scores,
    )


def order(instructions: Instructions, client: str) -> np.random.Generator:
    """Return the generator that shuffles this client's examples in this round."""
    return np.random.default_rng([instructions.seed, instructions.round, *client.encode()])


def set_seed(model, instructions: Instructions, client: str) -> None:
    """Let dropout and the like draw anew from this seed, round and client, so that a run can be repeated."""
    for layer in model.layers:
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            name = f"{instructions.seed}/{instructions.round}/{client}/{layer.name}"
            generator.state.assign([zlib.crc32(name.encode()), 0])


def load(model, table: list[Layer], path: str) -> Iterator[np.ndarray]:
    """Yield the arrays of the global model at `path`, each put into `model` and checked (raises ModelError)."""
    for variable, array in zip(model.weights, update.read_model(path, tensor_list(table)), strict=True):
        variable.assign(array)
        yield array


def train(
    model, table: list[Layer], selected: list[Layer], shard, instructions: Instructions, client: str, **options
) -> Trained:
    """Train `selected` on the client's `shard`; `options` are `phase` and `step` of ``local_training.train``."""
    return local_training.train(
        model,
        table,
        selected,
        shard.x_train,
        shard.y_train,
        instructions.training,
        order=order(instructions, client),
        follow=follows(instructions),
        **options,
    )


def follows(instructions: Instructions) -> bool:
    """Whether frozen BatchNormalization follows the batch, see ``fedn_partial.submodel.parts``."""
    return instructions.batchnorm_statistics != "with_layer"


def keeps(instructions: Instructions) -> bool:
    """Whether a client keeps something from round to round."""
    return instructions.codec == "int8" or instructions.batchnorm_statistics == "local"


def put_own_statistics(model, table: list[Layer], instructions: Instructions, kept: Path) -> None:
    """Put the BatchNormalization statistics of this client into `model`, if the session leaves them to the clients.

    `kept` is the folder of what the client keeps from round to round.
    """
    if instructions.batchnorm_statistics == "local":
        local_statistics.put(model, table, kept / "statistics", instructions.session)


def write_update(
    path: str, model, table: list[Layer], selected: list[Layer], instructions: Instructions, base: str, kept: Path
) -> int:
    """Write the update of a client that trained `selected` to `path` and return its checksum.

    Parameters
    ----------
    base : file of the global model that it started from. kept : folder of what the client keeps from round to round.
    """
    if instructions.batchnorm_statistics == "local":
        local_statistics.keep(model, table, kept / "statistics", instructions.session)
    tensors = [*itertools.chain(*sent(table, selected, instructions).values())]
    return update.encode(
        path,
        [model.weights[tensor.index] for tensor in tensors],
        codec=instructions.codec,
        base=update.read_model(base, tensor_list(table), only=tensors),
        residuals=residuals(kept / "residuals", instructions.session, tensors),
    )


def sent(table: list[Layer], selected: list[Layer], instructions: Instructions) -> dict[str, list]:
    """Return the parts of the update of `selected`, ``{name: [Tensor, ...]}``, see ``fedn_partial.submodel.parts``."""
    return sent_by(selected, parts_of(table, instructions.batchnorm_statistics))


def metadata(
    instructions: Instructions,
    client: str,
    table: list[Layer],
    selected: list[Layer],
    trained: Trained,
    checksum: int,
    context: selection.Context,
) -> dict:
    """Return the metadata of an update, see ``fedn_partial.exchange.update.write_metadata``.

    Parameters
    ----------
    checksum : of its values. context : the one that `selected` was chosen with, limits included.
    """
    known = {
        "num_examples": trained.num_examples,
        "model": fingerprint(table),
        "base": instructions.base,
        "round": instructions.round,
        "session": instructions.session,
        "client": client,
        "layers": list(sent(table, selected, instructions)),
        "codec": instructions.codec,
        "checksum": checksum,
        "train_loss": trained.loss,
        "trained_params": sum(layer.parameters for layer in selected),
        "total_params": sum(layer.parameters for layer in table),
        "training_macs": costs.training_macs(table, selected) * trained.num_examples * instructions.training.epochs,
    }
    if instructions.probabilities:
        probable = selection.probabilities(selection.from_dict(instructions.selection), table, context)
        known["probabilities"] = {layer.name: round(probable[layer.name], 4) for layer in selected}
    return known
