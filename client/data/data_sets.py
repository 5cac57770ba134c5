"""Load data sets by name and partition them into shards.

Each data set has a module in ``readers`` with ``read(folder) -> DataSet`` and ``ARCHIVE``, the archive of its official
files (None if they are installed with a package). A custom data set is a function, see ``custom_reader``.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

from fedn_partial.client.data import download, readers
from fedn_partial.client.data.data_set import DataSet
from fedn_partial.client.data.readers import custom_reader
from fedn_partial.client.data.sharding import make_shards
from fedn_partial.custom import names
from fedn_partial.data.shard import Shard
from fedn_partial.errors import DataError
from fedn_partial.settings.case import DATA_SETS, Data


def load(name: str, source: Path | None = None) -> DataSet:
    """Load a data set.

    Parameters
    ----------
    source : folder with the official files; None to download them into the cache.

    Raises
    ------
    DataError : the data set is unknown, or its files are missing or damaged. UserCodeError : a custom reader is wrong.
    """
    if names.is_custom(name):
        return custom_reader.read(name, source)
    if name not in DATA_SETS:
        raise DataError(f"data: name {name!r} is unknown. Allowed are: {', '.join(DATA_SETS)}")
    reader = importlib.import_module(f"{readers.__name__}.{name}")
    if reader.ARCHIVE is None:
        return reader.read(source)
    folder, origin = source, source
    if source is None:
        folder, origin = download.obtain(name, reader.ARCHIVE), reader.ARCHIVE.url
    data_set = reader.read(folder)
    return dataclasses.replace(data_set, source=f"{data_set.source}, from {origin}")


def partition_case(data: Data, seed: int, source: Path | None = None) -> tuple[str, list[Shard]]:
    """Load the data set of a case's `data:` section and partition it.

    Parameters
    ----------
    source : see ``load``.

    Returns
    -------
    The source of the data, and a shard for each client.

    Raises
    ------
    DataError : see ``load`` and ``make_shards``.
    """
    data_set = load(data.name, source)
    return data_set.source, make_shards(data_set, data, seed)
