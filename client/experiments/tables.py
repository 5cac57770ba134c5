"""Tables of experiments with the paper's figures. Accuracies are in percent, differences in percentage points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fedn_partial.client.experiments.definitions import Experiment, Setup
from fedn_partial.client.experiments.results import LAST, Result
from fedn_partial.client.experiments.statistics import (
    Spread,
    at_budgets,
    cell_runs,
    finished,
    lines,
    paper_sent,
    spread,
)
from fedn_partial.client.follow.progress import aligned

UNKNOWN = "-"


@dataclass(frozen=True)
class ResultTable:
    """A table of text cells with column headings and a caption."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def text(self) -> str:
        return f"{self.caption}\n\n{aligned([self.heads, *self.rows])}"

    def markdown(self) -> str:
        rule = ("---", *("---:" for _ in self.heads[1:]))
        return "\n".join(f"| {' | '.join(row)} |" for row in (self.heads, rule, *self.rows)) + f"\n\n{self.caption}"


def table(experiment: Experiment, results: dict[str, Result]) -> ResultTable:
    """Return the table of an experiment."""
    make = {"counts": _counts, "bytes": _bytes, "budgets": _budgets}.get(experiment.kind, _accuracies)
    return make(experiment, results)


def _caption(experiment: Experiment, text: str) -> str:
    settings = [cell.runs[0].settings for cell in experiment.cells]
    size = [
        "small version" if experiment.small else "full size",
        _range([item["session"]["rounds"] for item in settings], "rounds"),
        _range([item["data"]["examples"] for item in settings], "training examples"),
    ]
    seeds = len(experiment.cells[0].runs)
    return f"{experiment.title}; {', '.join(filter(None, size))}. {text}, mean ± standard deviation over {seeds} seeds."


def _range(numbers: list[int | None], unit: str) -> str | None:
    numbers = [number for number in numbers if number is not None]
    if not numbers:
        return None
    ends = dict.fromkeys((min(numbers), max(numbers)))
    return f"{' to '.join(f'{number:,}' for number in ends)} {unit}"


def _accuracies(experiment: Experiment, results: dict[str, Result]) -> ResultTable:
    rows = lines(experiment, results)
    printed, ceiling = any(line.paper is not None for line in rows), experiment.ceiling is not None
    columns = [
        (True, "", lambda line: line.label),
        (True, "accuracy %", lambda line: _ours(line.ours, line.done, line.planned)),
        (printed, "paper", lambda line: _number(line.paper)),
        (printed, "difference", lambda line: _signed(line.difference)),
        (ceiling, f"to {experiment.ceiling}", lambda line: UNKNOWN if line.below is None else line.below.signed),
        (printed and ceiling, f"paper, to {experiment.ceiling}", lambda line: _signed(line.paper_below)),
        (True, "sent, % of full", lambda line: UNKNOWN if line.share is None else f"{line.share.mean:.0f}"),
        (True, "majority class", lambda line: UNKNOWN if line.floor is None else _number(line.floor.mean)),
    ]
    columns = [(head, cell) for shown, head, cell in columns if shown]
    text = f"Accuracy: mean of the last {LAST} rounds" + ("; differences in points" if ceiling else "")
    return ResultTable(
        _caption(experiment, text),
        tuple(head for head, _ in columns),
        tuple(tuple(cell(line) for _, cell in columns) for line in rows),
    )


def _counts(experiment: Experiment, results: dict[str, Result]) -> ResultTable:
    rows = []
    for cell in experiment.cells:
        runs = finished(cell, results)
        statistics = [UNKNOWN] * 4
        if runs:
            counts = _training_counts(cell, runs)
            statistics = [str(counts.min()), f"{counts.mean():.2f}", str(counts.max()), str((counts == 0).sum())]
        rows.append((cell.label, _done(runs, cell, str(cell.runs[0].case().session.rounds)), *statistics))
    text = "Number of rounds in which a client trained a layer, over all clients and all layers not always trained"
    return ResultTable(
        _caption(experiment, text).replace(", mean ± standard deviation over", " and"),
        ("", "rounds", "fewest", "mean", "most", "never"),
        tuple(rows),
    )


def _training_counts(cell: Setup, runs: dict[int, Result]) -> np.ndarray:
    """Return the number of rounds in which each client trained each layer, except layers that are always trained."""
    always = cell.runs[0].settings["selection"].get("always_train", [])
    counts = [pd.DataFrame(result.trained, index=result.layers) for result in runs.values()]
    return np.concatenate([frame.drop(index=always, errors="ignore").to_numpy().ravel() for frame in counts])


def _bytes(experiment: Experiment, results: dict[str, Result]) -> ResultTable:
    rows = []
    for cell in experiment.cells:
        runs, paper = cell_runs(cell, results), paper_sent(cell)
        mib, share = spread(runs["ten_clients_mib"]), spread(runs["share"])
        rows.append(
            (
                cell.label,
                _ours(mib, len(runs), len(cell.runs)),
                UNKNOWN if paper is None else f"{paper[0]:.1f}",
                UNKNOWN if share is None else str(share),
                UNKNOWN if paper is None else f"{paper[1]:.2f}",
                UNKNOWN if share is None or paper is None else _signed(share.mean - paper[1]),
            )
        )
    return ResultTable(
        _caption(experiment, "Bytes sent by 10 clients in a round, and their share of full float32 updates"),
        ("", "MiB", "paper", "% of full", "paper's", "difference"),
        tuple(rows),
    )


def _budgets(experiment: Experiment, results: dict[str, Result]) -> ResultTable:
    rows = []
    for row in at_budgets(experiment, results):
        runs = cell_runs(row.cell, results)
        rows.append(
            (
                row.cell.label,
                _ours(row.accuracy, len(runs), len(row.cell.runs)),
                *_at(row.at_bytes, row.bytes_rounds),
                *_at(row.at_macs, row.macs_rounds),
                UNKNOWN if runs.empty else _number(runs["floor"].mean()),
            )
        )
    text = (
        f"Accuracy: mean of the last {LAST} rounds; and, interpolated between two rounds, at the total bytes sent and "
        "the total multiply-accumulates of the cheapest method, with the number of rounds to reach them"
    )
    heads = ("", "accuracy %", "at equal bytes", "rounds", "at equal operations", "rounds", "majority class")
    return ResultTable(_caption(experiment, text), heads, tuple(rows))


def _at(accuracy: Spread | None, rounds: Spread | None) -> tuple[str, str]:
    return (UNKNOWN if accuracy is None else str(accuracy), UNKNOWN if rounds is None else f"{rounds.mean:.1f}")


def _ours(value: Spread | None, done: int, planned: int) -> str:
    if value is None:
        return "not run"
    return str(value) if done == planned else f"{value} ({done} of {planned} runs)"


def _done(runs: dict, cell: Setup, text: str) -> str:
    if len(runs) == len(cell.runs):
        return text
    return f"{text} ({len(runs)} of {len(cell.runs)} runs)" if runs else "not run"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:+.2f}"
