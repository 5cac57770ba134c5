"""Checkpoint of a simulation after each round, to resume it after a kill at any point.

``checkpoint.json`` is replaced atomically and determines the state of the simulation. Newer rows, models and client
states were written by an interrupted round: rows are truncated, models overwritten, and states removed when the round
is repeated (see ``fedn_partial.runtime.client_state``).
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
    round : number of the last completed round, 0 before the first.
    rows_bytes : length of rounds.jsonl after this round.
    failed : numbers of the rounds that produced no model.
    seconds : simulated duration of each round, None if unknown.
    server : state of the server functions.
    """

    round: int = 0
    rows_bytes: int = 0
    failed: list[int] = field(default_factory=list)
    seconds: list[float | None] = field(default_factory=list)
    server: dict | None = None


def read(folder: Path) -> Checkpoint:
    """Return the checkpoint in `folder`, or an initial one if there is none; truncate newer rows of rounds.jsonl.

    Raises
    ------
    FednPartialError : checkpoint.json or rounds.jsonl is damaged.
    """
    path = folder / "checkpoint.json"
    try:
        raw = json.loads(path.read_text())
        if raw.pop("states", None):
            raise FednPartialError(
                f"{path} is of an earlier version, which stored client states differently; remove {folder} to start "
                "again"
            )
        checkpoint = Checkpoint(**raw)
    except FileNotFoundError:
        checkpoint = Checkpoint()
    except (ValueError, TypeError, AttributeError) as error:
        raise FednPartialError(f"{path} is damaged ({error}); remove {folder} to start again") from None
    rows = folder / "rounds.jsonl"
    length = rows.stat().st_size if rows.exists() else 0
    if length < checkpoint.rows_bytes:
        raise FednPartialError(
            f"{rows} is truncated: it has {length} bytes, but its {checkpoint.round} completed rounds have "
            f"{checkpoint.rows_bytes}; remove {folder} to start again"
        )
    if length:
        os.truncate(rows, checkpoint.rows_bytes)
    return checkpoint


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint in `folder`."""
    write_text(folder / "checkpoint.json", json.dumps(asdict(checkpoint)))
