"""Computed costs of training part of a model: bytes, operations and memory.

`make bench` compares measurements with these formulas. S is the selection, M_l the forward MACs of layer l for one
sample.
"""

from __future__ import annotations

from fedn_partial.custom import modules, names
from fedn_partial.exchange.codecs import CODECS, Codec
from fedn_partial.exchange.codecs.base import LENGTH, is_kernel
from fedn_partial.settings.case import Training
from fedn_partial.submodel.layers import Layer

FLOAT = 4  # bytes
# Overhead of an update: the npz format, and FEDn's message with the metadata (measured).
MESSAGE_BYTES = 2500


def upload_bytes(selected: list[Layer]) -> int:
    """Return the bytes of the trained tensors as float32."""
    return sum(layer.nbytes for layer in selected)


def encoded_bytes(tensors, codec: str) -> int:
    """Return the maximum bytes of an update of these tensors on the wire, see fedn_partial.exchange.encoding."""
    coder = names.make(codec, CODECS, Codec, "codec")
    size = MESSAGE_BYTES
    with modules.calling(type(coder).max_bytes):
        for tensor in tensors:
            size += LENGTH + coder.max_bytes(tensor.shape) if is_kernel(tensor.shape) else FLOAT * tensor.size
    return size


def training_macs(layers: list[Layer], selected: list[Layer]) -> int:
    """Return the multiply-accumulates of one training step for one sample.

    Sum of M_l over all layers (forward), over those above the lowest of S (gradients of inputs), and over S (gradients
    of weights).
    """
    above = _above_lowest(layers, selected)
    return sum(layer.macs for layer in [*layers, *above[1:], *selected])


def state_bytes(layers: list[Layer], selected: list[Layer], training: Training) -> int:
    """Return the bytes of all weights, and of the gradients and optimiser slots of S."""
    slots = 2 if training.optimizer == "adam" else 1 if training.momentum else 0
    return upload_bytes(layers) + (1 + slots) * upload_bytes(selected)


def ideal_activation_bytes(layers: list[Layer], selected: list[Layer], batch_size: int) -> float:
    """Return the minimum bytes of activations that backpropagation stores for a batch.

    The input of each trained layer, the input of its BatchNormalization, and for every layer from the lowest trained
    one on one bit per value for the ReLU and two bits per pooled value for the pooling's index.
    """
    above = _above_lowest(layers, selected)
    stored = sum(layer.inputs + (layer.outputs if layer.normalised else 0) for layer in selected)
    bits = sum(layer.outputs + 2 * layer.pooled for layer in above[: -1 if above[-1] is layers[-1] else None])
    return batch_size * (FLOAT * stored + bits / 8)


def framework_activation_bytes(layers: list[Layer], selected: list[Layer], batch_size: int) -> int:
    """Return the bytes of activations that a framework stores for a batch.

    For every layer from the lowest trained one on the input of its BatchNormalization and the outputs of its activation
    and pooling; and the input of the lowest.
    """
    above = _above_lowest(layers, selected)
    stored = sum(layer.outputs * (2 if layer.normalised else 1) + layer.pooled for layer in above)
    return batch_size * FLOAT * (stored + above[0].inputs)


def activation_bytes(layers: list[Layer], selected: list[Layer], batch_size: int) -> int:
    """Return the bytes of activations that TensorFlow stores for a batch with frozen BatchNormalization.

    As ``framework_activation_bytes``, without the inputs of frozen BatchNormalization.
    """
    above = _above_lowest(layers, selected)
    stored = sum(layer.outputs * (2 if layer.normalised and layer in selected else 1) + layer.pooled for layer in above)
    return batch_size * FLOAT * (stored + above[0].inputs)


def _above_lowest(layers: list[Layer], selected: list[Layer]) -> list[Layer]:
    """Return the layers from the lowest selected one to the output."""
    return layers[min(layers.index(layer) for layer in selected) :]
