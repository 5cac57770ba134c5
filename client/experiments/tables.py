"""Counts an experiment's table: ours, the paper's, the difference. Accuracies are in percent, differences in points.

Spread is the standard deviation over seeds (with n - 1). What is compared is compared seed by seed: a seed also decides
which images there are.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from fedn_partial.client.experiments.definitions import Experiment, Setup
from fedn_partial.client.experiments.paper import figures
from fedn_partial.client.experiments.results import LAST, Result
from fedn_partial.client.follow.progress import aligned
from fedn_partial.client.profiling.flavours import MIB

UNKNOWN = "-"
T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # two-sided, by runs


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of `count` runs; the latter is None for a single one."""

    mean: float
    deviation: float | None
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.deviation is None else f" ± {self.deviation:.2f}")

    @property
    def margin(self) -> float:
        """Half of the mean's 95 % interval by Student's t; infinite if the runs say nothing of their spread."""
        return T95.get(self.count, 2.0) * self.deviation / math.sqrt(self.count) if self.deviation else math.inf

    @property
    def sure(self) -> bool:
        """Whether the mean is away from 0 at 95 %."""
        return abs(self.mean) > self.margin

    @property
    def signed(self) -> str:
        return f"{self.mean:+.2f}" + ("" if self.deviation is None else f" ± {self.deviation:.2f}")


@dataclass(frozen=True)
class Line:
    """One cell's line. What is not known, or not printed in the paper, is None.

    Attributes
    ----------
    done, wanted : numbers of runs.
    ours, paper, difference : accuracy. below, paper_below : what it is away from the ceiling, negative below it.
    share : bytes sent, in percent of what all layers are as float32.
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
    share: Spread | None
    floor: Spread | None


@dataclass(frozen=True)
class ResultTable:
    """Words by row, under `heads`; `caption` says what they are."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def text(self) -> str:
        return f"{self.caption}\n\n{aligned([self.heads, *self.rows])}"

    def markdown(self) -> str:
        rule = ("---", *("---:" for _ in self.heads[1:]))
        return "\n".join(f"| {' | '.join(row)} |" for row in (self.heads, rule, *self.rows)) + f"\n\n{self.caption}"


def found(cell: Setup, results: dict[str, Result]) -> dict[int, Result]:
    """Return {seed: result} of a cell's runs that are done."""
    return {run.seed: results[run.digest] for run in cell.runs if run.digest in results}


def spread(values: list[float]) -> Spread | None:
    if not values:
        return None
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def apart(one: Setup, other: Setup, results: dict[str, Result]) -> Spread | None:
    """Return by how many points `one` is above `other`, over the seeds of which both are done."""
    mine, theirs = found(one, results), found(other, results)
    return spread([100 * (mine[seed].accuracy - theirs[seed].accuracy) for seed in mine if seed in theirs])


def lines(experiment: Experiment, results: dict[str, Result]) -> list[Line]:
    """Return a line for each cell."""
    ceiling = experiment.ceiling_cell
    return [_line(cell, ceiling, results) for cell in experiment.cells]


def _line(cell: Setup, ceiling: Setup | None, results: dict[str, Result]) -> Line:
    mine = found(cell, results)
    ours = spread([100 * result.accuracy for result in mine.values()])
    below = apart(cell, ceiling, results) if ceiling and ceiling is not cell else None
    known = cell.paper is not None
    return Line(
        label=cell.label,
        done=len(mine),
        wanted=len(cell.runs),
        ours=ours,
        paper=cell.paper,
        difference=ours.mean - cell.paper if known and ours else None,
        below=below,
        paper_below=cell.paper - ceiling.paper if known and below and ceiling.paper is not None else None,
        share=spread([_share(result) for result in mine.values()]),
        floor=spread([100 * result.floor for result in mine.values()]),
    )


def table(experiment: Experiment, results: dict[str, Result]) -> ResultTable:
    """Return an experiment's table."""
    make = {"counts": _counts, "bytes": _bytes, "budgets": _budgets}.get(experiment.kind, _accuracies)
    return make(experiment, results)


def _caption(experiment: Experiment, text: str) -> str:
    settings = [cell.runs[0].settings for cell in experiment.cells]
    size = [
        "small version" if experiment.small else "full size",
        _range([told["session"]["rounds"] for told in settings], "rounds"),
        _range([told["data"]["examples"] for told in settings], "training examples"),
    ]
    seeds = len(experiment.cells[0].runs)
    return f"{experiment.title}; {', '.join(filter(None, size))}. {text}, mean ± standard deviation over {seeds} seeds."


def _range(numbers: list[int | None], what: str) -> str | None:
    known = sorted({number for number in numbers if number is not None})
    return f"{' to '.join(f'{number:,}' for number in dict.fromkeys((known[0], known[-1])))} {what}" if known else None


def _share(result: Result) -> float:
    return 100 * sum(result.upload_bytes) / len(result.upload_bytes) / result.full_bytes


def _accuracies(experiment: Experiment, results: dict[str, Result]) -> ResultTable:
    found = lines(experiment, results)
    printed, ceiling = any(line.paper is not None for line in found), experiment.ceiling is not None
    columns = [
        (True, "", lambda line: line.label),
        (True, "accuracy %", lambda line: _ours(line.ours, line.done, line.wanted)),
        (printed, "paper", lambda line: _number(line.paper)),
        (printed, "difference", lambda line: _signed(line.difference)),
        (ceiling, f"to {experiment.ceiling}", lambda line: UNKNOWN if line.below is None else line.below.signed),
        (printed and ceiling, "paper's distance", lambda line: _signed(line.paper_below)),
        (True, "sent, % of full", lambda line: UNKNOWN if line.share is None else f"{line.share.mean:.0f}"),
        (True, "majority class", lambda line: UNKNOWN if line.floor is None else _number(line.floor.mean)),
    ]
    columns = [(head, cell) for shown, head, cell in columns if shown]
    text = f"Accuracy: mean of the last {LAST} rounds" + ("; distances in points" if ceiling else "")
    return ResultTable(
        _caption(experiment, text),
        tuple(head for head, _ in columns),
        tuple(tuple(cell(line) for _, cell in columns) for line in found),
    )


def _counts(experiment: Experiment, results: dict[str, Result]) -> ResultTable:
    rows = []
    for cell in experiment.cells:
        mine = found(cell, results)
        # The layers that are always trained say nothing of chance.
        fixed = cell.runs[0].settings["selection"].get("always_train", [])
        drawn = [
            count
            for result in mine.values()
            for counts in result.trained.values()
            for name, count in zip(result.layers, counts, strict=True)
            if name not in fixed
        ]
        known = (
            [str(min(drawn)), f"{statistics.fmean(drawn):.2f}", str(max(drawn)), str(drawn.count(0))] if drawn else []
        )
        rounds = cell.runs[0].case().session.rounds
        rows.append((cell.label, _done(mine, cell, str(rounds)), *(known or [UNKNOWN] * 4)))
    return ResultTable(
        _caption(
            experiment, "In how many rounds a client trained a layer that is not always trained; all clients"
        ).replace(", mean ± standard deviation over", " and"),
        ("", "rounds", "fewest", "mean", "most", "never"),
        tuple(rows),
    )


def sent(cell: Setup, results: dict[str, Result]) -> tuple[Spread | None, Spread | None]:
    """Return what 10 clients send in a round in MiB, and its share of a full update in percent."""
    mine = found(cell, results).values()
    per_round = [sum(result.upload_bytes) / len(result.upload_bytes) for result in mine]
    ten = [10 / len(result.trained) * mean / MIB for mean, result in zip(per_round, mine, strict=True)]
    return spread(ten), spread([_share(result) for result in mine])


def paper_sent(cell: Setup) -> tuple[float, float] | None:
    """Return the paper's MiB and percent for a cell of Table 3, or None."""
    printed = figures()["table3"]["layers"]
    layers = int(cell.label.partition(" ")[0])
    if layers not in printed:
        return None
    return printed[layers]["sent_mib"], 100 * printed[layers]["sent_mib"] / printed[14]["sent_mib"]


def _bytes(experiment: Experiment, results: dict[str, Result]) -> ResultTable:
    rows = []
    for cell in experiment.cells:
        mib, share = sent(cell, results)
        mine, paper = found(cell, results), paper_sent(cell)
        rows.append(
            (
                cell.label,
                _ours(mib, len(mine), len(cell.runs)),
                UNKNOWN if paper is None else f"{paper[0]:.1f}",
                UNKNOWN if share is None else str(share),
                UNKNOWN if paper is None else f"{paper[1]:.2f}",
                UNKNOWN if share is None or paper is None else _signed(share.mean - paper[1]),
            )
        )
    return ResultTable(
        _caption(experiment, "What 10 clients send in a round, and its share of all weights as float32"),
        ("", "MiB", "paper", "% of full", "paper's", "difference"),
        tuple(rows),
    )


@dataclass(frozen=True)
class AtBudget:
    """What a cell came to at equal costs: accuracies, and how many rounds they took."""

    cell: Setup
    accuracy: Spread | None
    at_bytes: Spread | None
    bytes_rounds: Spread | None
    at_macs: Spread | None
    macs_rounds: Spread | None


def budgets(experiment: Experiment, results: dict[str, Result], kind: str) -> dict[int, float]:
    """Return {seed: what the cheapest cell used in all of its rounds} of `kind`, upload_bytes or training_macs.

    A seed of which some run is missing has none.
    """
    cells = [found(cell, results) for cell in experiment.cells]
    seeds = set.intersection(*(set(mine) for mine in cells))
    return {seed: min(sum(getattr(mine[seed], kind)) for mine in cells) for seed in sorted(seeds)}


def apart_at(experiment: Experiment, one: Setup, other: Setup, results: dict[str, Result], kind: str) -> Spread | None:
    """Return by how many points `one` is above `other` where the costs of the cheapest cell are used up.

    `kind` of costs: upload_bytes or training_macs. A cell that cannot pay its first round from them has no accuracy.
    """
    gaps = []
    for seed, budget in budgets(experiment, results, kind).items():
        mine, theirs = (found(cell, results)[seed] for cell in (one, other))
        read = [result.at(getattr(result, kind), budget) for result in (mine, theirs)]
        if None not in read:
            gaps.append(100 * (read[0][0] - read[1][0]))
    return spread(gaps)


def at_budgets(experiment: Experiment, results: dict[str, Result]) -> list[AtBudget]:
    """Return each cell's accuracy after all of its rounds, at equal bytes, and at equal computing."""
    limits = {kind: budgets(experiment, results, kind) for kind in ("upload_bytes", "training_macs")}
    rows = []
    for cell in experiment.cells:
        mine = found(cell, results)
        known = {}
        for kind, budget in limits.items():
            read = [mine[seed].at(getattr(mine[seed], kind), limit) for seed, limit in budget.items()]
            reached = [at for at in read if at is not None]
            known[kind] = (
                spread([100 * accuracy for accuracy, _ in reached]),
                spread([rounds for _, rounds in reached]),
            )
        whole = spread([100 * result.accuracy for result in mine.values()])
        rows.append(AtBudget(cell, whole, *known["upload_bytes"], *known["training_macs"]))
    return rows


def _budgets(experiment: Experiment, results: dict[str, Result]) -> ResultTable:
    rows = []
    for row in at_budgets(experiment, results):
        mine = found(row.cell, results)
        rows.append(
            (
                row.cell.label,
                _ours(row.accuracy, len(mine), len(row.cell.runs)),
                *_at(row.at_bytes, row.bytes_rounds),
                *_at(row.at_macs, row.macs_rounds),
                UNKNOWN if not mine else _number(statistics.fmean(100 * result.floor for result in mine.values())),
            )
        )
    text = (
        f"Accuracy: mean of the last {LAST} rounds; and, read off between two rounds, where the bytes sent and the "
        "multiply-accumulates trained reach what the cheapest used in all of its rounds, with the rounds that this took"
    )
    heads = ("", "accuracy %", "at equal bytes", "rounds", "at equal computing", "rounds", "majority class")
    return ResultTable(_caption(experiment, text), heads, tuple(rows))


def _at(accuracy: Spread | None, rounds: Spread | None) -> tuple[str, str]:
    return (UNKNOWN if accuracy is None else str(accuracy), UNKNOWN if rounds is None else f"{rounds.mean:.1f}")


def _ours(value: Spread | None, done: int, wanted: int) -> str:
    if value is None:
        return "not run"
    return str(value) if done == wanted else f"{value} ({done} of {wanted} runs)"


def _done(mine: dict, cell: Setup, text: str) -> str:
    if len(mine) == len(cell.runs):
        return text
    return f"{text} ({len(mine)} of {len(cell.runs)} runs)" if mine else "not run"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:+.2f}"
