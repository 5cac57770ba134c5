"""The key figures of a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pandas as pd

from fedn_partial.client.records.load import Run
from fedn_partial.client.report.rounds import layer_count, rounds
from fedn_partial.client.report.tables import known, listing


@dataclass(frozen=True)
class Times:
    """Mean and standard deviation of the seconds of a client's round, over `updates` in `rounds` rounds."""

    mean: float | None
    spread: float | None
    updates: int
    rounds: int


@dataclass(frozen=True)
class Summary:
    """The key figures of one run. Partial updates have some of the layers, full ones all.

    Attributes
    ----------
    layers : of the model, None if not known. trained : fewest and most that a client trained after the warm-up.
    full_warmup : whether every merged update of the warm-up had all layers.
    full_training : whether every client trained every layer in every round, and some round followed the warm-up.
    accuracy : of the global model after round `accuracy_round`, the last round that was tested.
    upload_bytes : of all updates. full_upload_bytes : if each of these had been a full one, as float32.
    partial_upload_bytes, partial_full_bytes : the same of partial updates alone.
    download_bytes : of all clients. validation_bytes : the part of clients that only validated.
    partial_times, full_times : of a client's round. partial_memory_mb, full_memory_mb : mean of each round's highest.
    problem : what the run reports as its own failure, or that it has not ended.
    """

    label: str
    layers: int | None
    trained: tuple[int, int] | None
    full_training: bool
    rounds: int
    warmup_rounds: int
    full_warmup: bool
    failed_rounds: int
    clients: int
    accuracy: float | None
    accuracy_round: int | None
    upload_bytes: float | None
    full_upload_bytes: float | None
    download_bytes: float | None
    validation_bytes: float | None
    partial_upload_bytes: float | None
    partial_full_bytes: float | None
    partial_times: Times
    full_times: Times
    partial_memory_mb: float | None
    full_memory_mb: float | None
    problem: str | None

    @property
    def partial_seconds(self) -> float | None:
        return self.partial_times.mean

    @property
    def full_seconds(self) -> float | None:
        return self.full_times.mean

    @property
    def upload_share(self) -> float | None:
        return ratio(self.upload_bytes, self.full_upload_bytes)

    @property
    def partial_upload_share(self) -> float | None:
        return ratio(self.partial_upload_bytes, self.partial_full_bytes)


def ratio(part: float | None, whole: float | None) -> float | None:
    """Return part / whole, or None if one of them is not known or the whole is 0."""
    return part / whole if part is not None and whole else None


def summary(run: Run, rows: pd.DataFrame, rounds_table: pd.DataFrame) -> Summary:
    """Return the key figures of a run; `rows` and `rounds_table` are those of the report, see ``tables``."""
    rows, table = rows[rows["run"] == run.label], rounds_table[rounds_table["run"] == run.label]
    layers = layer_count(run)
    trained = rows[rows["layer_count"] > 0]
    full, partial = trained[trained["full"]], trained[~trained["full"]]
    after_warmup = trained.loc[~trained["warmup"], "layer_count"]
    in_warmup = rows[rows["merged"] & rows["round"].isin(table.loc[table["warmup"], "round"])]
    tested = table[~table["failed"] & table["accuracy"].notna()]
    validations = [round_.validation_bytes for round_ in rounds(run) if round_.validation_bytes is not None]
    return Summary(
        label=run.label,
        layers=layers,
        trained=(int(after_warmup.min()), int(after_warmup.max())) if len(after_warmup) else None,
        full_training=len(full) > 0 and not len(partial) and len(after_warmup) > 0,
        rounds=len(table),
        warmup_rounds=int(table["warmup"].sum()),
        full_warmup=bool((in_warmup["layer_count"] == layers).all()),
        failed_rounds=int(table["failed"].sum()),
        clients=rows["client"].nunique(),
        accuracy=known(tested["accuracy"].iloc[-1]) if len(tested) else None,
        accuracy_round=known(tested["round"].iloc[-1]) if len(tested) else None,
        upload_bytes=_total(rows["upload_bytes"]),
        full_upload_bytes=_total(rows["full_upload_bytes"]),
        download_bytes=_total(table["download_bytes"]),
        validation_bytes=sum(validations) if validations else None,
        partial_upload_bytes=_total(partial["upload_bytes"]),
        partial_full_bytes=_total(partial["full_upload_bytes"]),
        partial_times=_times(partial),
        full_times=_times(full),
        partial_memory_mb=known(partial["memory_mb"].mean()),
        full_memory_mb=known(full["memory_mb"].mean()),
        problem=_problem(run.session.get("final") or {}),
    )


def _total(column: pd.Series) -> float | None:
    return known(column.sum(min_count=1))


def _times(rows: pd.DataFrame) -> Times:
    timed = rows[rows["round_seconds"].notna()]
    seconds = timed["round_seconds"]
    return Times(known(seconds.mean()), known(seconds.std()), len(timed), timed["round"].nunique())


def _problem(final: dict) -> str | None:
    if not final:
        return "it has not ended, or was killed: its folder has no final result"
    return str(final["problem"]).rstrip(".") if final.get("problem") else None


def baseline(summaries: list[Summary]) -> Summary | None:
    """Return the run that others are compared with: the first of full training that was tested."""
    return next((item for item in summaries if item.full_training and item.accuracy is not None), None)


def runs_table(summaries: list[Summary]) -> pd.DataFrame:
    """Return one row for each run."""
    before = ("clients", "rounds", "warmup_rounds", "failed_rounds", "accuracy", "accuracy_round", "upload_bytes")
    before += ("full_upload_bytes", "upload_share", "partial_upload_share", "download_bytes")
    times = ("seconds", "seconds_spread", "timed_updates", "timed_rounds")  # columns of ``Times``
    after = ("partial_memory_mb", "full_memory_mb", "problem")
    rows = [
        (
            *(item.label, item.layers, *(item.trained or (None, None))),
            *(getattr(item, name) for name in before),
            *dataclasses.astuple(item.partial_times),
            *dataclasses.astuple(item.full_times),
            *(getattr(item, name) for name in after),
        )
        for item in summaries
    ]
    timed = (f"{kind}_round_{name}" for kind in ("partial", "full") for name in times)
    return listing(rows, ("run", "layers", "fewest_trained", "most_trained", *before, *timed, *after))
