"""Statistics of an experiment's runs. Accuracies are in percent, differences in percentage points.

Standard deviations are over seeds. Cells are compared seed by seed, as the seed also determines the examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
from scipy import stats

from fedn_partial.client.experiments.definitions import Experiment, Setup
from fedn_partial.client.experiments.paper import figures
from fedn_partial.client.experiments.results import Result
from fedn_partial.client.profiling.flavours import MIB

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of `count` runs; the latter is None for a single run."""

    mean: float
    deviation: float | None
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.deviation is None else f" ± {self.deviation:.2f}")

    @property
    def margin(self) -> float:
        """Half-width of the 95 % confidence interval by Student's t; infinite if the deviation is unknown or 0."""
        if not self.deviation:
            return math.inf
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, self.count - 1)) * self.deviation / math.sqrt(self.count)

    @property
    def significant(self) -> bool:
        """Whether the mean differs from 0 at the 95 % level."""
        return abs(self.mean) > self.margin

    @property
    def signed(self) -> str:
        return f"{self.mean:+.2f}" + ("" if self.deviation is None else f" ± {self.deviation:.2f}")


@dataclass(frozen=True)
class Line:
    """The statistics of one cell. Values that are unknown or not printed in the paper are None.

    Attributes
    ----------
    done, planned : number of finished and of all runs.
    ours, paper, difference : accuracy here, in the paper, and their difference.
    below, paper_below : difference to the ceiling here and in the paper, negative below it.
    share : bytes sent, in percent of full float32 updates.
    floor : accuracy of always predicting the most common class.
    """

    label: str
    done: int
    planned: int
    ours: Spread | None
    paper: float | None
    difference: float | None
    below: Spread | None
    paper_below: float | None
    share: Spread | None
    floor: Spread | None


@dataclass(frozen=True)
class AtBudget:
    """Accuracy of a cell after all rounds, and at equal bytes and equal operations with the numbers of rounds."""

    cell: Setup
    accuracy: Spread | None
    at_bytes: Spread | None
    bytes_rounds: Spread | None
    at_macs: Spread | None
    macs_rounds: Spread | None


def finished(cell: Setup, results: dict[str, Result]) -> dict[int, Result]:
    """Return {seed: result} of the finished runs of a cell."""
    return {run.seed: results[run.digest] for run in cell.runs if run.digest in results}


def cell_runs(cell: Setup, results: dict[str, Result]) -> pd.DataFrame:
    """Return the finished runs of a cell by seed.

    Columns: accuracy and floor (percent), share (bytes sent, in percent of full float32 updates), ten_clients_mib
    (MiB sent by 10 clients in a round).
    """
    rows = {
        seed: (
            100 * result.accuracy,
            100 * result.floor,
            100 * _bytes_per_round(result) / result.full_bytes,
            10 / len(result.trained) * _bytes_per_round(result) / MIB,
        )
        for seed, result in finished(cell, results).items()
    }
    columns = ["accuracy", "floor", "share", "ten_clients_mib"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=float)


def _bytes_per_round(result: Result) -> float:
    return sum(result.upload_bytes) / len(result.upload_bytes)


def spread(values: pd.Series | list[float]) -> Spread | None:
    """Return mean and standard deviation of the values without missing ones, or None if there are none."""
    values = pd.Series(values, dtype=float).dropna()
    if values.empty:
        return None
    return Spread(float(values.mean()), float(values.std()) if len(values) > 1 else None, len(values))


def difference(cell: Setup, other: Setup, results: dict[str, Result]) -> Spread | None:
    """Return the accuracy of `cell` minus that of `other` in points, over the seeds finished in both."""
    accuracies = (cell_runs(item, results)["accuracy"] for item in (cell, other))
    return spread(next(accuracies) - next(accuracies))


def lines(experiment: Experiment, results: dict[str, Result]) -> list[Line]:
    """Return one line per cell."""
    return [_line(cell, experiment.ceiling_cell, results) for cell in experiment.cells]


def _line(cell: Setup, ceiling: Setup | None, results: dict[str, Result]) -> Line:
    runs = cell_runs(cell, results)
    ours = spread(runs["accuracy"])
    below = difference(cell, ceiling, results) if ceiling and ceiling is not cell else None
    printed = cell.paper is not None
    return Line(
        label=cell.label,
        done=len(runs),
        planned=len(cell.runs),
        ours=ours,
        paper=cell.paper,
        difference=ours.mean - cell.paper if printed and ours else None,
        below=below,
        paper_below=cell.paper - ceiling.paper if printed and below and ceiling.paper is not None else None,
        share=spread(runs["share"]),
        floor=spread(runs["floor"]),
    )


def paper_sent(cell: Setup) -> tuple[float, float] | None:
    """Return MiB and percentage of full updates in Table 3 of the paper for a cell, or None."""
    printed = figures()["table3"]["layers"]
    layers = int(cell.label.partition(" ")[0])
    if layers not in printed:
        return None
    return printed[layers]["sent_mib"], 100 * printed[layers]["sent_mib"] / printed[14]["sent_mib"]


def budgets(experiment: Experiment, results: dict[str, Result], kind: str) -> pd.Series:
    """Return the total costs of the cheapest cell by seed, without seeds that have missing runs.

    Parameters
    ----------
    kind : "upload_bytes" or "training_macs".
    """
    costs = {
        cell.label: {seed: sum(getattr(result, kind)) for seed, result in finished(cell, results).items()}
        for cell in experiment.cells
    }
    return pd.DataFrame(costs).dropna().min(axis="columns").sort_index()


def at_budget(cell: Setup, results: dict[str, Result], kind: str, limits: pd.Series) -> pd.DataFrame:
    """Return accuracy (percent) and rounds of a cell by seed at which its costs of `kind` reach the limit of the seed.

    Both are missing if the first round exceeds the limit.
    """
    runs = finished(cell, results)
    rows = {seed: runs[seed].at(getattr(runs[seed], kind), limit) for seed, limit in limits.items()}
    rows = {seed: (100 * at[0], at[1]) if at else (math.nan, math.nan) for seed, at in rows.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["accuracy", "rounds"], dtype=float)


def difference_at_budget(
    experiment: Experiment, cell: Setup, other: Setup, results: dict[str, Result], kind: str
) -> Spread | None:
    """Return the accuracy of `cell` minus that of `other` in points at the total costs of the cheapest cell.

    Parameters
    ----------
    kind : "upload_bytes" or "training_macs".
    """
    limits = budgets(experiment, results, kind)
    accuracies = (at_budget(item, results, kind, limits)["accuracy"] for item in (cell, other))
    return spread(next(accuracies) - next(accuracies))


def at_budgets(experiment: Experiment, results: dict[str, Result]) -> list[AtBudget]:
    """Return the accuracy of each cell after all rounds, at equal bytes and at equal operations."""
    limits = {kind: budgets(experiment, results, kind) for kind in ("upload_bytes", "training_macs")}
    rows = []
    for cell in experiment.cells:
        reached = [at_budget(cell, results, kind, limit) for kind, limit in limits.items()]
        spreads = [spread(frame[column]) for frame in reached for column in ("accuracy", "rounds")]
        rows.append(AtBudget(cell, spread(cell_runs(cell, results)["accuracy"]), *spreads))
    return rows
