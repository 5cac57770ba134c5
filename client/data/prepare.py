"""Write the shards of a fleet to disk."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np

from fedn_partial.client.data import data_sets
from fedn_partial.data.shard import write_shard
from fedn_partial.errors import FednPartialError
from fedn_partial.settings.case import Data


def prepare(data: Data, seed: int, source: Path | None, out: Path) -> tuple[str, list[tuple[Path, int, int, list]]]:
    """Partition a data set and write the shards to ``client-1``, ``client-2``, ... in the new folder `out`.

    Parameters
    ----------
    source : folder with the official files; None to download them.

    Returns
    -------
    The source of the data, and for each shard its folder, the numbers of training and test examples, and of training
    examples by class.

    Raises
    ------
    FednPartialError : `out` exists or cannot be written, or the data cannot be loaded or partitioned. `out` is written
        whole or not at all.
    """
    if out.exists():
        raise FednPartialError(f"{out} exists; name another folder with --out, or remove it")
    origin, shards = data_sets.partition_case(data, seed, source)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{out.name}.", dir=out.parent))
    written = []
    try:
        for number, shard in enumerate(shards, start=1):
            name = f"client-{number}"
            write_shard(unfinished / name, shard, origin)
            by_class = np.bincount(shard.y_train, minlength=len(shard.classes)).tolist()
            written.append((out / name, len(shard.y_train), len(shard.y_test), by_class))
        unfinished.chmod(0o755)
        unfinished.rename(out)
    except OSError as error:
        raise FednPartialError(f"{out} cannot be written: {error}") from None
    finally:  # after an error or Ctrl-C; the folder is gone if it was renamed
        shutil.rmtree(unfinished, ignore_errors=True)
    return origin, written
