"""Data sets read from their official files and dealt to clients, and the shards that devices train on.

One module reads one data set; each has ``read(folder) -> DataSet`` and ``ARCHIVE``, where its files can be had (None:
they come with the install). The rest is common: `download`, `deal` and `partition`, `shard`. A device needs only the
last, and imports no more.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

from fedn_partial.datasets.shard import ARRAYS, Shard, check_fits, open_shard, verify, write_shard
from fedn_partial.errors import DataError

__all__ = [
    "ARRAYS",
    "READERS",
    "DataError",
    "Shard",
    "check_fits",
    "deal_case",
    "load",
    "open_shard",
    "verify",
    "write_shard",
]

READERS = ("digits", "cifar10", "imdb", "casa")  # each a module here


def load(name: str, source: Path | None = None):
    """Read a whole data set, a ``fedn_partial.datasets.dataset.DataSet``.

    Parameters
    ----------
    source : folder with its official files; None: the download cache, where they are downloaded to if need be.

    Raises
    ------
    DataError : unknown data set, or one that cannot be had.
    """
    if name not in READERS:
        raise DataError(f"data: name {name!r} is unknown. Allowed are: {', '.join(READERS)}")
    reader = importlib.import_module(f"{__name__}.{name}")
    if reader.ARCHIVE is None:
        return reader.read(source)
    folder, where = source, source
    if source is None:
        from fedn_partial.datasets import download

        folder, where = download.obtain(name, reader.ARCHIVE), reader.ARCHIVE.url
    data_set = reader.read(folder)
    return dataclasses.replace(data_set, source=f"{data_set.source}, from {where}")


def deal_case(data, seed: int, source: Path | None = None) -> tuple[str, list[Shard]]:
    """Load the data set that a case's `data:` section names and deal it to its clients.

    Parameters
    ----------
    data : ``fedn_partial.settings.Data``. source : as for `load`.

    Returns
    -------
    Where the data come from, and a shard for each client.

    Raises
    ------
    DataError : unknown data set, one that cannot be had, or not be dealt so.
    """
    from fedn_partial.datasets.deal import deal

    data_set = load(data.name, source)
    return data_set.source, deal(data_set, data, seed)
