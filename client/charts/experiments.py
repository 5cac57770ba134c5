"""Charts of experiments as SVG files."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from fedn_partial.client.charts import axes as parts
from fedn_partial.client.charts import style
from fedn_partial.client.charts.heat_maps import draw_boxes, level, write_count
from fedn_partial.client.charts.svg import light_file
from fedn_partial.client.experiments.definitions import Experiment, Setup
from fedn_partial.client.experiments.results import Result
from fedn_partial.client.experiments.statistics import (
    Line,
    Spread,
    budgets,
    cell_runs,
    finished,
    lines,
    paper_sent,
    spread,
)

HEIGHT = 3.4  # inches


def experiment_chart(experiment: Experiment, results: dict[str, Result]) -> str | None:
    """Return the chart of an experiment as SVG, or None if no run is finished."""
    if not any(run.digest in results for run in experiment.runs):
        return None
    kinds = {"curves": _curves, "points": _points, "counts": _counts, "bytes": _bytes, "budgets": _budgets}
    with matplotlib.rc_context(style.SETTINGS):
        return light_file(kinds[experiment.kind](experiment, results))


def _curves(experiment: Experiment, results: dict[str, Result]) -> Figure:
    """Draw the accuracy of each cell by round."""
    figure = parts.document_figure(HEIGHT)
    axes = figure.add_subplot()
    table = lines(experiment, results)
    ends = []
    for number, (cell, line) in enumerate(zip(experiment.cells, table, strict=True)):
        accuracies = _accuracies(cell, results)
        if accuracies is None:
            continue
        rounds = range(1, len(accuracies) + 1)
        _draw_curve(axes, rounds, accuracies, number, cell is experiment.ceiling_cell)
        ends.append((accuracies["mean"].iloc[-1], f"{cell.label} {line.ours.mean:.1f}", number))
    _draw_floor(axes, table)
    parts.label_axes(axes, "accuracy %", "round")
    axes.set_xticks(parts.whole_ticks(1, max(len(line.get_xdata()) for line in axes.lines)))
    _label_ends(axes, ends)
    return figure


def _points(experiment: Experiment, results: dict[str, Result]) -> Figure:
    """Draw the final accuracy of the cells of a grid: rows on the x axis, one line per column."""
    figure = parts.document_figure(HEIGHT)
    axes = figure.add_subplot()
    table = {line.label: line for line in lines(experiment, results)}
    grid = [cell for cell in experiment.cells if cell.row is not None]
    rows = list(dict.fromkeys(cell.row for cell in grid))
    columns = list(dict.fromkeys(cell.column for cell in grid))
    ends = []
    for number, column in enumerate(columns):
        shift = 0.12 * (number - (len(columns) - 1) / 2)  # keeps error bars from overlapping
        cells = [(cell.row, table[cell.label].ours) for cell in grid if cell.column == column]
        points = [(rows.index(row) + shift, ours) for row, ours in cells if ours]
        if points:
            _draw_points(axes, points, number)
            ends.append((points[-1][1].mean, column, number))
    _draw_floor(axes, list(table.values()))
    if experiment.ceiling and table[experiment.ceiling].ours:
        parts.horizontal_rule(axes, table[experiment.ceiling].ours.mean, f"full training: {experiment.ceiling}")
    parts.label_axes(axes, "accuracy %", experiment.axis or "")
    axes.set_xticks(range(len(rows)), rows)
    axes.set_xlim(-0.4, len(rows) - 0.6)
    _label_ends(axes, ends)
    return figure


def _draw_points(axes, points: list[tuple[float, Spread]], number: int) -> None:
    marker = {"marker": style.marker(number), "markeredgecolor": style.PAPER}
    axes.plot([x for x, _ in points], [ours.mean for _, ours in points], **style.line(number), **marker, zorder=3)
    for x, ours in points:
        if ours.deviation is not None:
            ends = (ours.mean - ours.deviation, ours.mean + ours.deviation)
            axes.plot([x, x], ends, color=style.colour(number), linewidth=1)


def _counts(experiment: Experiment, results: dict[str, Result]) -> Figure:
    """Draw a heat map of clients by layers for the first seed of each cell."""
    panels = [(cell, runs[min(runs)]) for cell in experiment.cells if (runs := finished(cell, results))]
    clients = len(panels[0][1].trained)
    figure = parts.document_figure(len(panels) * (0.6 + 0.19 * clients))
    for axes, (cell, result) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        rounds = len(result.accuracies)
        boxes: dict[int, list] = {}
        for row, counts in enumerate(result.trained.values()):
            for column, count in enumerate(counts):
                step = level(count, rounds)
                boxes.setdefault(step, []).append((column + 0.04, row + 0.06, column + 0.96, row + 0.94))
                write_count(axes, (column + 0.5, row + 0.54), str(count), step)
        draw_boxes(axes, boxes)
        axes.set_title(f"{cell.label}, {rounds} rounds, seed {result.settings['seed']}")
        axes.set_xlim(0, len(result.layers))
        axes.set_ylim(clients, 0)
        axes.set_xticks([column + 0.5 for column in range(len(result.layers))], result.layers)
        axes.set_yticks([row + 0.5 for row in range(clients)], result.trained)
        axes.tick_params(length=0, labelsize=8)
        axes.spines["bottom"].set_visible(False)
    return figure


def _bytes(experiment: Experiment, results: dict[str, Result]) -> Figure:
    """Draw bars of the bytes sent by each cell, here and in the paper."""
    figure = parts.document_figure(0.7 + 0.62 * len(experiment.cells))
    axes = figure.add_subplot()
    for row, cell in enumerate(experiment.cells):
        share, printed = spread(cell_runs(cell, results)["share"]), paper_sent(cell)
        bars = [(share and share.mean, style.colour(0), "here"), (printed and printed[1], style.MUTED, "paper")]
        for number, (value, colour, label) in enumerate(bars):
            if value is None:
                continue
            y = row + 0.34 * number
            axes.barh(y, value, 0.3, color=colour, linewidth=0)
            axes.text(value + 1, y, f"{value:.1f}  {label}", va="center", color=style.INK)
        if share and share.deviation:
            ends = [share.mean - share.deviation, share.mean + share.deviation]
            axes.plot(ends, [row, row], color=style.INK, linewidth=1)
    axes.set_yticks([row + 0.17 for row in range(len(experiment.cells))], [cell.label for cell in experiment.cells])
    axes.set_ylim(len(experiment.cells) - 0.3, -0.35)
    axes.set_xlim(0, 118)
    axes.set_title("bytes sent, % of full training")
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.spines["left"].set_visible(False)
    return figure


def _budgets(experiment: Experiment, results: dict[str, Result]) -> Figure:
    """Draw accuracy by bytes sent and by operations, both in units of a round of full training."""
    figure = parts.document_figure(6.2)
    units = {"upload_bytes": "bytes sent", "training_macs": "multiply-accumulates of training"}
    for axes, (kind, unit) in zip(figure.subplots(2), units.items(), strict=True):
        full_round = _full_round(experiment, results, kind)
        ends, longest = [], 0.0
        for number, cell in enumerate(experiment.cells):
            accuracies = _accuracies(cell, results)
            if accuracies is None or full_round is None:
                continue
            spent = _by_round(cell, results, kind).cumsum().mean(axis="columns") / full_round
            _draw_curve(axes, spent.tolist(), accuracies, number, cell is experiment.ceiling_cell)
            ends.append((accuracies["mean"].iloc[-1], cell.label, number))
            if cell is not experiment.ceiling_cell:
                longest = max(longest, spent.iloc[-1])
        limits = budgets(experiment, results, kind)
        if longest:
            axes.set_xlim(0, 1.3 * longest)  # the other methods end here
        if len(limits) and full_round:
            axes.axvline(limits.mean() / full_round, **style.REFERENCE)
        _draw_floor(axes, lines(experiment, results))
        parts.label_axes(axes, "accuracy %", f"{unit}, in rounds of full training")
        _label_ends(axes, ends)
    return figure


def _by_round(cell: Setup, results: dict[str, Result], name: str) -> pd.DataFrame:
    """Return the field `name` of a cell's results by round, with one column per seed."""
    return pd.DataFrame({seed: getattr(result, name) for seed, result in finished(cell, results).items()})


def _accuracies(cell: Setup, results: dict[str, Result]) -> pd.DataFrame | None:
    """Return mean and standard deviation (0 for one run) of a cell's accuracies by round in percent, or None."""
    accuracies = _by_round(cell, results, "accuracies")
    if accuracies.empty:
        return None
    columns = {"mean": accuracies.mean(axis="columns"), "deviation": accuracies.std(axis="columns").fillna(0.0)}
    return 100 * pd.DataFrame(columns)


def _full_round(experiment: Experiment, results: dict[str, Result], kind: str) -> float | None:
    """Return the mean costs of a round of full training, or None if no run of it is finished."""
    costs = _by_round(experiment.ceiling_cell, results, kind) if experiment.ceiling_cell else pd.DataFrame()
    return None if costs.empty else costs.iloc[0].mean()


def _draw_curve(axes, x: Sequence[float], accuracies: pd.DataFrame, number: int, reference: bool) -> None:
    """Draw the means with a band of one standard deviation; the reference has a thicker line."""
    low, high = (accuracies["mean"] + sign * accuracies["deviation"] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=style.colour(number), alpha=0.14, linewidth=0)
    axes.plot(x, accuracies["mean"], **style.line(number), linewidth=2.2 if reference else 1.4, zorder=3)


def _draw_floor(axes, table: list[Line]) -> None:
    floors = pd.Series([line.floor.mean for line in table if line.floor])
    parts.horizontal_rule(axes, floors.mean(), "majority class")


def _label_ends(axes, ends: list[tuple[float, str, int]]) -> None:
    """Write labels at the right ends of the lines, shifted vertically so that they do not overlap."""
    if not ends:
        return
    low, high = axes.get_ylim()
    gap = (high - low) * 0.062
    positions: list[float] = []
    ends = sorted(ends, key=lambda end: end[0])
    for height, _, _ in ends:
        positions.append(max(height, positions[-1] + gap) if positions else height)
    heights = pd.Series([height for height, _, _ in ends])
    shift = min(heights.mean() - pd.Series(positions).mean(), 0)
    for position, (_, text, number) in zip(positions, ends, strict=True):
        point, coordinates = (1, position + shift), ("axes fraction", "data")
        parts.write_right(axes, text, point, coordinates, 8, color=style.colour(number))
