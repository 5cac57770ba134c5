"""Global models as FEDn's numpyhelper writes them."""

from __future__ import annotations

import math
import zipfile

import numpy as np

from fedn_partial.errors import ModelError
from fedn_partial.exchange.npz import check_npz, read_member


def read_model(path: str, tensors=None, only=None):
    """Yield the arrays of a global model as FEDn's numpyhelper writes it: an npz file with arrays "0" to "n-1".

    One after the other, so that a device need not hold two models. What the file declares is checked before an array
    is read, so that no file takes more memory than the model does.

    Parameters
    ----------
    tensors : list of all Tensor of the model: an array that is not exactly as one of them, with finite values, is
        refused. It may be float16 as well, if the session keeps its global model so.
    only : list of the Tensor that are wanted, if not all.

    Raises
    ------
    ModelError : not such a file, or not such a model.
    """
    try:
        headers = check_npz(path, limit_bytes=math.inf)  # the tensors say how large each array may be
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
    except Exception as error:  # zipfile, zlib and numpy have many ways to say that a file is damaged
        raise ModelError(f"{path} is not a model in FEDn's npz format: {error}") from None


def _check_headers(headers, tensors) -> None:
    if len(headers) != len(tensors):
        raise ModelError(f"global model has {len(headers)} tensors, this model has {len(tensors)}")
    for header, tensor in zip(headers, tensors, strict=True):
        if header.shape != tensor.shape or header.dtype not in (np.dtype(tensor.dtype), np.dtype(np.float16)):
            raise ModelError(
                f"global model's tensor {tensor.index} ({tensor.name}) is {header.dtype} {header.shape}, "
                f"this model's is {tensor.dtype} {tensor.shape}"
            )
