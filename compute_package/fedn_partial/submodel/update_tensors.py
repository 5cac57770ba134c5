"""The tensors in an update: those of the trained layers, and BatchNormalization's statistics."""

from __future__ import annotations

STATISTICS = "batchnorm statistics"  # listed among the layers of an update


def update_tensors(layers, batchnorm_statistics: str) -> dict[str, list]:
    """Return the tensors that updates may contain, ``{layer: [Tensor, ...]}``, in the order in which they are sent.

    `batchnorm_statistics` selects how BatchNormalization's moving statistics are sent:

    with_layer : with their layer if it is trained. Frozen layers use the statistics of the global model.
    always : all of them with every update, under the name ``STATISTICS``.
    local : never. Each client uses its own statistics in training and evaluation (SiloBN, Andreux et al. 2020). The
        global model keeps those of the seed model.

    With the last two, every BatchNormalization, frozen or not, normalises by the batch and updates its statistics in
    training.
    """
    if batchnorm_statistics == "with_layer":
        return {layer.name: list(layer.tensors) for layer in layers}
    trained = {layer.name: [tensor for tensor in layer.tensors if not tensor.statistic] for layer in layers}
    statistics = [tensor for layer in layers for tensor in layer.tensors if tensor.statistic]
    return trained | ({STATISTICS: statistics} if statistics and batchnorm_statistics == "always" else {})


def shapes(tensors_by_layer) -> dict[str, list[list[int]]]:
    """Return ``{layer: [shape, ...]}``, the argument `layers` of ``fedn_partial.exchange.decoding.decode``."""
    return {name: [list(tensor.shape) for tensor in tensors] for name, tensors in tensors_by_layer.items()}


def tensors_of(selected, tensors_by_layer) -> dict[str, list]:
    """Return the part of `tensors_by_layer` that is sent after training the layers `selected`."""
    names = {layer.name for layer in selected} | {STATISTICS}
    return {name: tensors for name, tensors in tensors_by_layer.items() if name in names}
