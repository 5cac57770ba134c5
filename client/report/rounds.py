"""Rounds and layers of a run, derived from its rows."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from fedn_partial.client.records.load import Run
from fedn_partial.client.records.outcome import Outcome
from fedn_partial.client.records.run_folder import Row


@dataclass(frozen=True)
class ReportRound:
    """One round of a run.

    Attributes
    ----------
    number : number of the round in the session.
    rows : rows of the clients that answered.
    validation_bytes : bytes downloaded by clients that only validated the model, or None if there were none.
    """

    number: int
    rows: tuple[Row, ...]
    validation_bytes: float | None = None


def rounds(run: Run) -> list[ReportRound]:
    """Return the rounds of a run that have rows, sorted by number.

    Numbers are those of the server functions. If these are missing or not unique, FEDn's rounds are counted from 1.
    """
    by_id: dict[str, list[Row]] = defaultdict(list)
    for row in run.rows:
        by_id[row.fedn_round].append(row)
    numbers = _numbers(by_id)
    validations = run.validations
    return [ReportRound(numbers[id], tuple(by_id[id]), validations.get(id)) for id in sorted(by_id, key=numbers.get)]


def _numbers(rows_by_id: dict[str, list[Row]]) -> dict[str, int]:
    """Return {FEDn's round id: number}."""
    counted = {id: {row.round for row in rows} for id, rows in rows_by_id.items()}
    numbers = {id: int(*values) for id, values in counted.items() if len(values) == 1 and None not in values}
    if len(set(numbers.values())) == len(rows_by_id):
        return numbers
    if all(id.isdecimal() for id in rows_by_id):
        first = min(map(int, rows_by_id))
        return {id: int(id) - first + 1 for id in rows_by_id}
    return {id: position for position, id in enumerate(rows_by_id, start=1)}


def is_merged(row: Row) -> bool:
    """Return whether an update was merged or has no reported outcome, as FEDn reports none for the last round."""
    return row.outcome in (Outcome.MERGED, Outcome.SENT)


def is_full(row: Row, layers: int | None) -> bool:
    """Return whether a client trained all of the model's `layers` layers."""
    return _has_all_weights(row) or (layers is not None and len(row.layers) >= layers)


def layer_names(run: Run) -> list[str]:
    """Return the names of the model's layers from input to output.

    Runs of old versions do not contain them. For these, return the layers trained by any client, in the order of a
    client that trained all of them, or sorted by name.
    """
    if run.session.get("layers"):
        return list(run.session["layers"])
    trained = [row.layers for row in run.rows if is_merged(row)]
    names = {name for layers in trained for name in layers}
    longest = max(trained, key=len, default=[])
    return list(dict.fromkeys(longest)) if set(longest) == names else sorted(names, key=natural)


def layer_count(run: Run) -> int | None:
    """Return the number of layers of the model from session.json or from a client that trained all, or None."""
    if run.session.get("layers"):
        return len(run.session["layers"])
    return next((len(set(row.layers)) for row in run.rows if _has_all_weights(row)), None)


def _has_all_weights(row: Row) -> bool:
    return bool(row.layers) and row.trained_params is not None and row.trained_params == row.total_params


def natural(name: str) -> list:
    """Return a sort key by which conv2 precedes conv10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]
