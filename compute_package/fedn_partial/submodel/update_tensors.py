"""What updates are made of: the tensors of each layer, and BatchNormalization's statistics where a session says."""

from __future__ import annotations

STATISTICS = "batchnorm statistics"  # the name of a part that is no layer


def update_tensors(layers, batchnorm_statistics: str) -> dict[str, list]:
    """Return what updates are made of, ``{layer: [Tensor, ...]}``, in the order in which the tensors are sent.

    Where BatchNormalization's moving statistics go depends on `batchnorm_statistics`:

    with_layer : with their layer, when it is trained; else its BatchNormalization runs on the global model's.
    always : all of them with every update, as one more part that is called ``STATISTICS``.
    local : nowhere. Each client keeps its own and puts them into every global model, to train it and to test it
        (SiloBN, Andreux et al. 2020). The global model itself keeps those it began with.

    With the last two, every BatchNormalization normalises by the batch in training and follows it, also where its layer
    is frozen.
    """
    if batchnorm_statistics == "with_layer":
        return {layer.name: list(layer.tensors) for layer in layers}
    trained = {layer.name: [tensor for tensor in layer.tensors if not tensor.statistic] for layer in layers}
    statistics = [tensor for layer in layers for tensor in layer.tensors if tensor.statistic]
    return trained | ({STATISTICS: statistics} if statistics and batchnorm_statistics == "always" else {})


def shapes(parts) -> dict[str, list[list[int]]]:
    """Return ``{layer: [shape, ...]}`` of `parts`, as ``fedn_partial.exchange.decoding.decode`` wants it."""
    return {name: [list(tensor.shape) for tensor in tensors] for name, tensors in parts.items()}


def tensors_of(selected, parts) -> dict[str, list]:
    """Return those of `parts` that the update of a client that trained the layers `selected` has."""
    names = {layer.name for layer in selected} | {STATISTICS}
    return {name: tensors for name, tensors in parts.items() if name in names}
