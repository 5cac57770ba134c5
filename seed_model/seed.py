"""The seed model: the global model that a session starts from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedn_partial import models
from fedn_partial.client.fedn_api.api import Api, ApiError
from fedn_partial.errors import ModelError
from fedn_partial.exchange import model_file, wire
from fedn_partial.runtime.atomic import write_atomically
from fedn_partial.settings.case import Case
from fedn_partial.submodel.layers import Layer, read_layers, tensor_list


def build_seed(case: Case, path: str | Path) -> list[Layer]:
    """Write an initialised model of `case` to `path` (.npz) and return its layers; equal for equal seeds.

    With ``model_dtype: float16`` its kernels are rounded to float16.
    """
    import keras

    keras.utils.set_random_seed(case.seed)
    model = models.build(case.model)
    layers = read_layers(model)
    with write_atomically(path) as file:
        np.savez(
            file,
            **{
                str(tensor.index): model.weights[tensor.index]
                .numpy()
                .astype(case.model_dtype if len(tensor.shape) > 1 else "float32")
                for tensor in tensor_list(layers)
            },
        )
    return layers


def upload_seed(api: Api, path: str | Path) -> str:
    """Upload a model file as FEDn's newest model and return its id.

    Raises
    ------
    ModelError : invalid model file. ApiError : FEDn has no compute package yet, or rejects the model.
    """
    empty = True
    for index, array in enumerate(model_file.read_model(str(path))):
        empty = False
        if not np.isfinite(array).all():
            raise ModelError(f"{path}: tensor {index} has values that are not finite")
    if empty:
        raise ModelError(f"{path} holds no tensors")
    try:
        api.get("packages/active")
    except ApiError as error:
        raise ApiError(
            f"FEDn requires a compute package before a model; run 'fedn-partial package upload' ({error})"
        ) from None
    api.put("helpers/active", json={"helper": "numpyhelper"})
    with Path(path).open("rb") as file:
        api.post("models/", files={"file": (Path(path).name, file)}, data={"helper": "numpyhelper"})
    return newest_model(api)


def newest_model(api: Api) -> str:
    """Return the id of FEDn's newest model.

    Raises
    ------
    ModelError : FEDn has none.
    """
    newest = api.get("models/", limit=1, order="desc")["result"]
    if not newest:
        raise ModelError("FEDn has no model yet; upload one with 'fedn-partial seed upload seed.npz'")
    return newest[0]["model_id"]


def check_seed(api: Api, model_id: str, layers: list[Layer], path: Path) -> str:
    """Download a model from FEDn to `path` and return its digest, see ``fedn_partial.exchange.wire.digest``.

    Raises
    ------
    ModelError : it lacks the tensors of `layers`.
    """
    api.download_model(model_id, path)
    try:
        return wire.digest(model_file.read_model(str(path), tensor_list(layers)))
    except ModelError as error:
        raise ModelError(
            f"FEDn's newest model does not fit this case ({error}); "
            "upload a seed model with 'fedn-partial seed build CONFIG' and 'fedn-partial seed upload'"
        ) from None
