"""Read a data set with a custom function: ``def my_reader(folder: Path = ...) -> DataSet``."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np

from fedn_partial.client.data.data_set import DataSet, Examples
from fedn_partial.custom import modules, names
from fedn_partial.custom.errors import UserCodeError, at
from fedn_partial.errors import DataError

DTYPES = ("uint8", "float32", "int32")  # images, features, words


def read(name: str, source: Path | None) -> DataSet:
    """Return the data set that the function `name` (``my_module:my_reader``) reads.

    Parameters
    ----------
    source : argument of the function; None for the function's default.

    Raises
    ------
    SettingsError : the name is invalid.
    DataError : `source` is None and the function has no default.
    UserCodeError : the function raises an exception, or does not return a valid data set.
    """
    function = names.find_function(name, "DataSet", "data: name")
    parameters = list(inspect.signature(function).parameters.values())
    if source is None and parameters and parameters[0].default is inspect.Parameter.empty:
        raise DataError(f"data: {name} has no default folder; name the folder with its files with --source")
    with modules.calling(function):
        data_set = function() if source is None else function(source)
    if not isinstance(data_set, DataSet):
        raise UserCodeError(
            f"{at(function)}: {function.__name__} returned {type(data_set).__name__}, expected a DataSet"
        )
    for part in ("train", "test"):
        examples = getattr(data_set, part)
        problem = None if part == "test" and examples is None else _problem(examples, len(data_set.classes))
        if problem:
            raise UserCodeError(f"{at(function)}: {function.__name__}: {part}: {problem}")
    return data_set


def _problem(examples: Examples, classes: int) -> str | None:
    """Return the problem with training or test examples as text, or None."""
    x, y = examples.x, examples.y
    if not isinstance(x, np.ndarray) or not isinstance(y, np.ndarray):
        return "x and y must be NumPy arrays"
    if len(x) != len(y) or y.ndim != 1 or not len(y):
        return f"x has shape {x.shape} and y {y.shape}; expected one class number an example, and at least one example"
    if x.dtype.name not in DTYPES or y.dtype != np.int32:
        return f"x is {x.dtype} and y {y.dtype}; x must be uint8 (images), float32 (features) or int32 (words), y int32"
    if not 0 <= y.min() <= y.max() < classes:
        return f"y has classes {y.min()} to {y.max()}, but the data set names {classes}"
    return None
