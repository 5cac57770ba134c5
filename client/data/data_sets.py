"""Data sets by name: read from their official files, and partitioned into shards.

One module reads one data set; each has ``read(folder) -> DataSet`` and ``ARCHIVE``, where its files can be had (None:
they come with the install). A custom data set is a function, see ``custom_reader``.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

from fedn_partial.client.data import custom_reader, download
from fedn_partial.client.data.data_set import DataSet
from fedn_partial.client.data.sharding import make_shards
from fedn_partial.custom import names
from fedn_partial.data.shard import Shard
from fedn_partial.errors import DataError
from fedn_partial.settings.case import DATA_SETS, Data


def load(name: str, source: Path | None = None) -> DataSet:
    """Read a whole data set.

    Parameters
    ----------
    source : folder with its official files; None: the download cache, where they are downloaded to if need be.

    Raises
    ------
    DataError : unknown data set, or one that cannot be had. UserCodeError : a custom reader is wrong.
    """
    if names.is_custom(name):
        return custom_reader.read(name, source)
    if name not in DATA_SETS:
        raise DataError(f"data: name {name!r} is unknown. Allowed are: {', '.join(DATA_SETS)}")
    reader = importlib.import_module(f"{__package__}.{name}")
    if reader.ARCHIVE is None:
        return reader.read(source)
    folder, where = source, source
    if source is None:
        folder, where = download.obtain(name, reader.ARCHIVE), reader.ARCHIVE.url
    data_set = reader.read(folder)
    return dataclasses.replace(data_set, source=f"{data_set.source}, from {where}")


def partition_case(data: Data, seed: int, source: Path | None = None) -> tuple[str, list[Shard]]:
    """Load the data set that a case's `data:` section names and partition it into shards.

    Parameters
    ----------
    source : as for `load`.

    Returns
    -------
    Where the data come from, and a shard for each client.

    Raises
    ------
    DataError : unknown data set, one that cannot be had, or cannot be partitioned so.
    """
    data_set = load(data.name, source)
    return data_set.source, make_shards(data_set, data, seed)
