"""The key figures of a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pandas as pd

from fedn_partial.client.records.load import Run
from fedn_partial.client.report.rounds import layer_count, rounds
from fedn_partial.client.report.tables import listing, to_python


@dataclass(frozen=True)
class Times:
    """Mean and standard deviation of the seconds of a client's round, over `updates` in `rounds` rounds."""

    mean: float | None
    spread: float | None
    updates: int
    rounds: int


@dataclass(frozen=True)
class Summary:
    """Key figures of one run. Partial updates contain some of the layers, full updates all.

    Attributes
    ----------
    layers : number of layers of the model, or None if unknown.
    trained : smallest and largest number of layers that a client trained after the warm-up.
    full_warmup : whether every merged update of the warm-up was a full update.
    full_training : whether every client trained every layer in every round, and a round followed the warm-up.
    accuracy, accuracy_round : accuracy of the global model after the last round that was tested, and that round.
    upload_bytes, full_upload_bytes : bytes of all updates, and of as many full float32 updates.
    partial_upload_bytes, partial_full_bytes : the same for partial updates only.
    download_bytes : bytes downloaded by all clients.
    validation_bytes : the part of them downloaded by clients that only validated.
    partial_times, full_times : durations of a client's round.
    partial_memory_mb, full_memory_mb : mean of the peak memory of a client's round.
    problem : problem reported by the run, or that it has not ended; else None.
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
    """Return part / whole, or None if one of them is None or the whole is 0."""
    return part / whole if part is not None and whole else None


def summary(run: Run, rows: pd.DataFrame, rounds_table: pd.DataFrame) -> Summary:
    """Return the key figures of a run; `rows` and `rounds_table` are the tables of all runs, see ``tables``."""
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
        accuracy=to_python(tested["accuracy"].iloc[-1]) if len(tested) else None,
        accuracy_round=to_python(tested["round"].iloc[-1]) if len(tested) else None,
        upload_bytes=_total(rows["upload_bytes"]),
        full_upload_bytes=_total(rows["full_upload_bytes"]),
        download_bytes=_total(table["download_bytes"]),
        validation_bytes=sum(validations) if validations else None,
        partial_upload_bytes=_total(partial["upload_bytes"]),
        partial_full_bytes=_total(partial["full_upload_bytes"]),
        partial_times=_times(partial),
        full_times=_times(full),
        partial_memory_mb=to_python(partial["memory_mb"].mean()),
        full_memory_mb=to_python(full["memory_mb"].mean()),
        problem=_problem(run.session.get("final") or {}),
    )


def _total(column: pd.Series) -> float | None:
    return to_python(column.sum(min_count=1))


def _times(rows: pd.DataFrame) -> Times:
    timed = rows[rows["round_seconds"].notna()]
    seconds = timed["round_seconds"]
    return Times(to_python(seconds.mean()), to_python(seconds.std()), len(timed), timed["round"].nunique())


def _problem(final: dict) -> str | None:
    if not final:
        return "it has not ended or was killed, as its folder has no final result"
    return str(final["problem"]).rstrip(".") if final.get("problem") else None


def baseline(summaries: list[Summary]) -> Summary | None:
    """Return the baseline: the first tested run of full training, or None."""
    return next((item for item in summaries if item.full_training and item.accuracy is not None), None)


def runs_table(summaries: list[Summary]) -> pd.DataFrame:
    """Return one row per run."""
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
