"""What training a part of a model costs at least: bytes, operations, memory. Counted from the layers, not measured.

The formulas are those of the limits that `make bench` compares with. S is the selection, M_l the forward MACs of
layer l for one sample.
"""

from __future__ import annotations

from fedn_partial.custom import modules, names
from fedn_partial.exchange.codecs import Codec, pack
from fedn_partial.settings.case import Training
from fedn_partial.submodel.layers import Layer

FLOAT = 4  # bytes
# What an update has beside its tensors: the frame of an npz file, and FEDn's message with our metadata (measured).
MESSAGE_BYTES = 2500


def upload_bytes(selected: list[Layer]) -> int:
    """Return the bytes of the trained tensors as float32."""
    return sum(layer.nbytes for layer in selected)


def encoded_bytes(tensors, codec: str) -> int:
    """Return the bytes of an update of these tensors on the wire at most, see fedn_partial.exchange.encoding.

    For int8 that is before deflation, which takes off what there is to take.
    """
    size = MESSAGE_BYTES
    for tensor in tensors:
        if len(tensor.shape) < 2 or codec == "float32":
            size += FLOAT * tensor.size
        elif codec == "float16":
            size += 2 * tensor.size
        elif names.is_custom(codec):
            size += len(pack(b"")) + _max_bytes(codec, tensor.shape)
        else:  # a byte a value, and a step size for each output channel
            size += tensor.size + FLOAT * tensor.shape[-1]
    return size


def _max_bytes(codec: str, shape: tuple[int, ...]) -> int:
    cls = names.find_class(codec, Codec, "codec")
    with modules.calling(cls.max_bytes):
        return cls().max_bytes(shape)


def training_macs(layers: list[Layer], selected: list[Layer]) -> int:
    """Return the multiply-accumulates of one training step for one sample.

    Sum over all l of M_l (forward), over l above the lowest of S (gradient of the layer's input), over S (gradient
    of its weights).
    """
    above = _above_lowest(layers, selected)
    return sum(layer.macs for layer in [*layers, *above[1:], *selected])


def state_bytes(layers: list[Layer], selected: list[Layer], training: Training) -> int:
    """Return the bytes of weights, of the gradients of S, and of the optimiser's slots for S."""
    slots = 2 if training.optimizer == "adam" else 1 if training.momentum else 0
    return upload_bytes(layers) + (1 + slots) * upload_bytes(selected)


def ideal_activation_bytes(layers: list[Layer], selected: list[Layer], batch_size: int) -> float:
    """Return the bytes that backpropagation must keep of a batch's forward pass at least.

    The input of each trained layer, the input of its BatchNormalization, and for every layer from the lowest
    trained one on a bit a value for the ReLU and two bits a pooled value for the pooling's index.
    """
    above = _above_lowest(layers, selected)
    kept = sum(layer.inputs + (layer.outputs if layer.normalised else 0) for layer in selected)
    bits = sum(layer.outputs + 2 * layer.pooled for layer in above[: -1 if above[-1] is layers[-1] else None])
    return batch_size * (FLOAT * kept + bits / 8)


def framework_activation_bytes(layers: list[Layer], selected: list[Layer], batch_size: int) -> int:
    """Return the bytes that a framework keeps of a batch's forward pass.

    For every layer from the lowest trained one on what goes into its BatchNormalization, what comes out of its
    activation, and what comes out of the pooling; and the lowest one's input.
    """
    above = _above_lowest(layers, selected)
    kept = sum(layer.outputs * (2 if layer.normalised else 1) + layer.pooled for layer in above)
    return batch_size * FLOAT * (kept + above[0].inputs)


def activation_bytes(layers: list[Layer], selected: list[Layer], batch_size: int) -> int:
    """Return the bytes that TensorFlow keeps of a batch's forward pass with frozen BatchNormalization.

    As ``framework_activation_bytes``, but what goes into a frozen layer's BatchNormalization is not kept.
    """
    above = _above_lowest(layers, selected)
    kept = sum(layer.outputs * (2 if layer.normalised and layer in selected else 1) + layer.pooled for layer in above)
    return batch_size * FLOAT * (kept + above[0].inputs)


def _above_lowest(layers: list[Layer], selected: list[Layer]) -> list[Layer]:
    """Return the layers from the lowest selected one to the output."""
    return layers[min(layers.index(layer) for layer in selected) :]
