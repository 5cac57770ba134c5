"""Reading of global models in the format of FEDn's numpyhelper."""

from __future__ import annotations

import math
import zipfile

import numpy as np

from fedn_partial.errors import ModelError
from fedn_partial.exchange.npz import check_npz, read_member


def read_model(path: str, tensors=None, only=None):
    """Yield the arrays of a global model: an npz file with arrays "0" to "n-1".

    Arrays are read one at a time, so that a device need not hold two models. The headers are checked before an array is
    read, so that no file takes more memory than the model.

    Parameters
    ----------
    tensors : list of all Tensor of the model; arrays must have their shapes, their dtypes or float16, and finite
        values.
    only : list of the Tensor to read; None for all.

    Raises
    ------
    ModelError : not an npz file of arrays, or not this model.
    """
    try:
        headers = check_npz(path, limit_bytes=math.inf)  # the tensors limit the size of each array
    except ModelError as error:
        raise ModelError(f"{path} is not a model in FEDn's npz format: it {error}") from None
    if tensors is not None:
        _check_headers(headers, tensors)
    try:
        with zipfile.ZipFile(path) as archive:
            for index in range(len(headers)) if only is None else [tensor.index for tensor in only]:
                array = read_member(archive, index)
                if tensors is not None and not np.isfinite(array).all():
                    name = tensors[index].name
                    raise ModelError(f"global model's tensor {index} ({name}) has values that are not finite")
                yield array
    except (MemoryError, ModelError):
        raise
    except Exception as error:  # zipfile, zlib and numpy raise many types for damaged files
        raise ModelError(f"{path} is not a model in FEDn's npz format: {error}") from None


def _check_headers(headers, tensors) -> None:
    if len(headers) != len(tensors):
        raise ModelError(f"global model has {len(headers)} tensors, expected {len(tensors)}")
    for header, tensor in zip(headers, tensors, strict=True):
        if header.shape != tensor.shape or header.dtype not in (np.dtype(tensor.dtype), np.dtype(np.float16)):
            raise ModelError(
                f"global model's tensor {tensor.index} ({tensor.name}) is {header.dtype} {header.shape}, "
                f"expected {tensor.dtype} {tensor.shape}"
            )
