"""What a round of a real FEDn network must have made of the updates that its clients sent, written out in numpy."""

from __future__ import annotations

import json

import numpy as np

from fedn_partial.exchange import wire


def kept_updates(folder, base: list[np.ndarray], session: str | None = None) -> list[tuple[dict, list[np.ndarray]]]:
    """Return metadata and arrays of the float32 updates in `folder` that were trained from the model `base`."""
    digest, updates = wire.digest(base), []
    for path in sorted(folder.glob("*.json")):
        metadata = json.loads(path.read_text())
        if metadata.get("base") == digest and session in (None, metadata.get("session")):
            with np.load(path.with_suffix(".npz")) as archive:
                updates.append((metadata, [archive["0"], archive["1"]]))
    return updates


def merged_model(layers, before, updates) -> list[np.ndarray]:
    """Return the model of rule all_clients as float64: W + sum n_k (W_k - W) / n, pooled variances."""
    n = [int(metadata["num_examples"]) for metadata, _ in updates]
    whole = [_whole_model(layers, before, metadata, *arrays) for metadata, arrays in updates]
    expected = [array.astype(np.float64) for array in before]
    for tensor in (tensor for layer in layers for tensor in layer.tensors):
        values = [model[tensor.index].astype(np.float64) for model in whole]
        if tensor.name.endswith("moving_variance"):
            means = [model[tensor.index - 1].astype(np.float64) for model in whole]
            moments = [v + m * m for v, m in zip(values, means, strict=True)]
            expected[tensor.index] = np.average(moments, axis=0, weights=n) - np.average(means, axis=0, weights=n) ** 2
        else:
            expected[tensor.index] = np.average(values, axis=0, weights=n)
    return expected


def assert_merged(layers, before, after, updates, optimize=lambda index, old, merged: merged) -> int:
    """Compare `after` with ``merged_model``, layers that nobody sent bit by bit; return the number of these.

    `optimize` : returns the value of a tensor after the server optimizer's step.
    """
    expected, untouched = merged_model(layers, before, updates), 0
    for layer in layers:
        if not any(layer.name in metadata["layers"] for metadata, _ in updates):
            untouched += 1
            for tensor in layer.tensors:
                assert before[tensor.index].tobytes() == after[tensor.index].tobytes(), tensor.name
            continue
        for tensor in layer.tensors:
            wanted = expected[tensor.index]
            if not tensor.statistic:
                wanted = optimize(tensor.index, before[tensor.index].astype(np.float64), wanted)
            np.testing.assert_allclose(after[tensor.index], wanted, rtol=1e-5, atol=1e-6, err_msg=tensor.name)
    return untouched


class HeavyBall:
    """v <- beta v + D, W <- W + rate v, as an argument `optimize`."""

    def __init__(self, beta: float, rate: float):
        self.beta, self.rate, self.velocity = beta, rate, {}

    def __call__(self, index: int, old: np.ndarray, merged: np.ndarray) -> np.ndarray:
        self.velocity[index] = self.beta * self.velocity.get(index, 0.0) + merged - old
        return old + self.rate * self.velocity[index]


def _whole_model(layers, before, metadata, vectors, kernels) -> list[np.ndarray]:
    """Return a client's whole model: the layers that it did not train as they were."""
    model, position, offset = list(before), 0, 0
    for layer in layers:
        for tensor in layer.tensors if layer.name in metadata["layers"] else ():
            if len(tensor.shape) > 1:  # 4 bytes for the length of the data, and float32 data
                assert kernels[offset : offset + 4].view("<u4")[0] == 4 * tensor.size
                values = kernels[offset + 4 : offset + 4 + 4 * tensor.size].view("<f4")
                offset += 4 + 4 * tensor.size
            else:
                values = vectors[position : position + tensor.size]
                position += tensor.size
            model[tensor.index] = values.reshape(tensor.shape)
    assert (position, offset) == (len(vectors), len(kernels))
    return model
