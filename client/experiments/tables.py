"""Counts an experiment's table: ours, the paper's, the difference. Accuracies are in percent, differences in points.

Spread is the standard deviation over seeds (with n - 1). Distances to full training are taken seed by seed, as a seed
also decides which images there are.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from fedn_partial.client.experiments.definitions import Cell, Experiment
from fedn_partial.client.experiments.results import LAST, Result
from fedn_partial.client.progress import aligned


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of some runs; the latter is None for a single one."""

    mean: float
    deviation: float | None

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.deviation is None else f" ± {self.deviation:.2f}")


@dataclass(frozen=True)
class Line:
    """One cell's line. What is not known, or not printed in the paper, is None.

    Attributes
    ----------
    done, wanted : numbers of runs.
    ours, paper, difference : accuracy. below, paper_below : what it is away from the ceiling, negative below it.
    floor : accuracy of always saying the most common class.
    """

    label: str
    done: int
    wanted: int
    ours: Spread | None
    paper: float | None
    difference: float | None
    below: Spread | None
    paper_below: float | None
    floor: Spread | None


def found(cell: Cell, results: dict[str, Result]) -> dict[int, Result]:
    """Return {seed: result} of a cell's runs that are done."""
    return {run.seed: results[run.digest] for run in cell.runs if run.digest in results}


def spread(values: list[float]) -> Spread | None:
    if not values:
        return None
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def lines(experiment: Experiment, results: dict[str, Result]) -> list[Line]:
    """Return a line for each cell."""
    ceiling = next((cell for cell in experiment.cells if cell.label == experiment.ceiling), None)
    return [_line(cell, ceiling, results) for cell in experiment.cells]


def _line(cell: Cell, ceiling: Cell | None, results: dict[str, Result]) -> Line:
    mine = found(cell, results)
    full = found(ceiling, results) if ceiling and ceiling is not cell else {}
    ours = spread([100 * result.accuracy for result in mine.values()])
    distances = [100 * (mine[seed].accuracy - full[seed].accuracy) for seed in mine if seed in full]
    known = cell.paper is not None
    return Line(
        label=cell.label,
        done=len(mine),
        wanted=len(cell.runs),
        ours=ours,
        paper=cell.paper,
        difference=ours.mean - cell.paper if known and ours else None,
        below=spread(distances),
        paper_below=cell.paper - ceiling.paper if known and full and ceiling.paper is not None else None,
        floor=spread([100 * result.floor for result in mine.values()]),
    )


HEADS = ("", "accuracy %", "paper", "difference", "to full training", "paper", "majority class")


def cells_of(line: Line) -> tuple[str, ...]:
    """Return a line as words, under `HEADS`."""
    missing = "" if line.done == line.wanted else f" ({line.done} of {line.wanted} runs)"
    return (
        line.label,
        "not run" if line.ours is None else f"{line.ours}{missing}",
        "-" if line.paper is None else f"{line.paper:.2f}",
        _signed(line.difference),
        "-" if line.below is None else _signed(line.below.mean, line.below.deviation),
        _signed(line.paper_below),
        "-" if line.floor is None else f"{line.floor.mean:.2f}",
    )


def text(experiment: Experiment, results: dict[str, Result]) -> str:
    """Return the table for a terminal."""
    size = "small" if experiment.small else "full size"
    seeds = len(experiment.cells[0].runs)
    head = (
        f"{experiment.title} ({size}). Accuracy of the last {LAST} rounds, mean ± standard deviation over {seeds} "
        "seeds; differences in points."
    )
    return f"{head}\n\n{aligned([HEADS, *map(cells_of, lines(experiment, results))])}"


def _signed(value: float | None, deviation: float | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:+.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")
