"""Where a simulation stands after a round, so that it goes on from there after a kill at any point.

What counts is in ``checkpoint.json``, which is replaced in one step. Rows, models and states of clients that are
newer than it says were left by a round that was killed; they are cut off, or written over.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import write_text


@dataclass(frozen=True)
class Checkpoint:
    """The state after a round.

    Attributes
    ----------
    round : the last that is over, 0 at the beginning. rows_bytes : length of rounds.jsonl then.
    failed : numbers of the rounds that made no model. seconds : simulated, of each round, None if not known.
    server : state of the server functions. states : {client: the round in which it last kept something}.
    """

    round: int = 0
    rows_bytes: int = 0
    failed: list[int] = field(default_factory=list)
    seconds: list[float | None] = field(default_factory=list)
    server: dict | None = None
    states: dict[str, int] = field(default_factory=dict)


def read(folder: Path) -> Checkpoint:
    """Return the checkpoint in `folder`, that of the beginning if there is none; cut off what came after it.

    Raises
    ------
    FednPartialError : it is damaged.
    """
    path = folder / "checkpoint.json"
    try:
        checkpoint = Checkpoint(**json.loads(path.read_text()))
    except FileNotFoundError:
        checkpoint = Checkpoint()
    except (ValueError, TypeError) as error:
        raise FednPartialError(f"{path}: is damaged ({error}); remove {folder} to begin anew") from None
    rows = folder / "rounds.jsonl"
    length = rows.stat().st_size if rows.exists() else 0
    if length < checkpoint.rows_bytes:
        raise FednPartialError(
            f"{rows} has {length} bytes, {checkpoint.rows_bytes} at least belong to the {checkpoint.round} rounds that "
            f"are over; remove {folder} to begin anew"
        )
    if length:
        os.truncate(rows, checkpoint.rows_bytes)
    return checkpoint


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Put `checkpoint` in the place of the last one."""
    write_text(folder / "checkpoint.json", json.dumps(asdict(checkpoint)))
