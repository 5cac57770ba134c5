"""The layers of a model: the unit of selection, training, updates, merging and costs.

A layer is trained or frozen as a whole: one weighted Keras layer with the BatchNormalization that follows it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from fedn_partial.errors import FednPartialError


@dataclass(frozen=True)
class Tensor:
    """One weight array of the model; `index` is its position in ``model.get_weights()``."""

    index: int
    name: str  # "conv0/kernel"
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of values."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size

    @property
    def statistic(self) -> bool:
        """Whether it is a moving mean or variance of BatchNormalization."""
        return self.name.endswith(("/moving_mean", "/moving_variance"))


@dataclass(frozen=True)
class Layer:
    """One layer of the global model.

    Attributes
    ----------
    name : of its weighted Keras layer.
    keras_layers : names of its Keras layers.
    tensors : its weight arrays, in the order of ``model.get_weights()``.
    macs : multiply-accumulate operations of its forward pass for one sample.
    inputs, outputs : number of input and output values for one sample, before pooling; the outputs of an LSTM are the
        values that its backward pass needs of every step (four gates, cell state, output).
    pooled : number of output values of the pooling after it, 0 if there is none.
    normalised : whether it includes a BatchNormalization.
    """

    name: str
    keras_layers: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    macs: int
    inputs: int
    outputs: int
    pooled: int
    normalised: bool

    @property
    def parameters(self) -> int:
        """Number of weights, BatchNormalization's moving statistics included (as the paper's Table 1 counts)."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of its weights as float32."""
        return 4 * self.parameters


def read_layers(model) -> list[Layer]:
    """Return the layers of a built Keras model, from input to output.

    Raises
    ------
    FednPartialError : a weight that is not float32, a weighted layer with several inputs, or a BatchNormalization with
        no weighted layer before it.
    """
    import keras

    position = {id(weight): index for index, weight in enumerate(model.weights)}
    groups: list[list] = []
    pooled: list[int] = []
    for layer in model.layers:
        if not layer.weights:
            if groups and _values(layer.output) < _values(groups[-1][0].output):
                pooled[-1] = _values(layer.output)
            continue
        if isinstance(layer.input, (list, tuple)) and len(layer.input) > 1:
            raise FednPartialError(
                f"layer {layer.name!r} has {len(layer.input)} inputs; only layers with one are supported"
            )
        if not isinstance(layer, keras.layers.BatchNormalization):
            groups.append([layer])
            pooled.append(0)
        elif groups:
            groups[-1].append(layer)
        else:
            raise FednPartialError(
                f"BatchNormalization {layer.name!r} has no weighted layer before it; add one, such as Dense or Conv2D"
            )
    return [_layer(group, pooled_values, position) for group, pooled_values in zip(groups, pooled, strict=True)]


def _layer(group: list, pooled: int, position: dict[int, int]) -> Layer:
    tensors = []
    for keras_layer in group:
        for weight in keras_layer.weights:
            if weight.dtype != "float32":
                raise FednPartialError(f"weight {weight.path!r} is {weight.dtype}; only float32 models are supported")
            # The weights of a nested model may have equal names, their paths are unique.
            name = weight.path if hasattr(keras_layer, "layers") else weight.name
            tensors.append(
                Tensor(position[id(weight)], f"{keras_layer.name}/{name}", tuple(weight.shape), weight.dtype)
            )
    tensors.sort(key=lambda tensor: tensor.index)
    return Layer(
        name=group[0].name,
        keras_layers=tuple(layer.name for layer in group),
        tensors=tuple(tensors),
        macs=_forward_macs(group[0]),
        inputs=_values(group[0].input),
        outputs=_outputs(group[0]),
        pooled=pooled,
        normalised=len(group) > 1,
    )


def _values(tensor) -> int:
    """Return the number of values of one sample."""
    values = 1
    for extent in tensor.shape[1:]:
        values *= extent
    return values


def _outputs(layer) -> int:
    import keras

    if isinstance(layer, keras.layers.LSTM):
        return layer.input.shape[1] * layer.units * 6
    return _values(layer.output)


def _forward_macs(layer) -> int:
    """Return the multiply-accumulates for one sample, without BatchNormalization and activations."""
    import keras

    kernel = 1
    for extent in layer.weights[0].shape if layer.weights else ():
        kernel *= extent
    if isinstance(layer, keras.layers.Embedding):
        return 0
    if isinstance(layer, keras.layers.LSTM):
        steps = layer.input.shape[1]
        return steps * sum(int(weight.shape[0] * weight.shape[1]) for weight in layer.weights[:2])
    positions = 1
    for extent in layer.output.shape[1:-1]:  # pixels or steps at which the kernel is applied
        positions *= extent
    return positions * kernel


def fingerprint(layers: list[Layer]) -> str:
    """Return a hash of the tensors' names, shapes and dtypes, equal for models whose weights can be exchanged."""
    description = [
        [tensor.index, tensor.name, tensor.shape, tensor.dtype] for layer in layers for tensor in layer.tensors
    ]
    return hashlib.sha256(json.dumps(description).encode()).hexdigest()[:16]


def tensor_list(layers: list[Layer]) -> list[Tensor]:
    """Return all tensors of `layers`, in the order of ``model.get_weights()``."""
    return sorted((tensor for layer in layers for tensor in layer.tensors), key=lambda tensor: tensor.index)


def pick(layers: list[Layer], names) -> list[Layer]:
    """Return the layers `names`, in model order.

    Raises
    ------
    FednPartialError : a name that the model does not have.
    """
    unknown = set(names) - {layer.name for layer in layers}
    if unknown:
        available = ", ".join(layer.name for layer in layers)
        raise FednPartialError(f"no layer called {', '.join(sorted(map(repr, unknown)))}; the model has {available}")
    return [layer for layer in layers if layer.name in names]
