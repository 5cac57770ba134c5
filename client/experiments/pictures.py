"""Draws an experiment as SVG, light, as wide as a page of text; in the colours of a run's report."""

from __future__ import annotations

import functools
import io
import re
import statistics
from itertools import accumulate
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch

from fedn_partial.client.experiments.definitions import Experiment
from fedn_partial.client.experiments.results import Result
from fedn_partial.client.experiments.tables import budgets, found, lines, paper_sent, sent, spread
from fedn_partial.client.report import charts

WIDTH = 7.0  # inches; 672 CSS pixels
QUIET = {"color": charts.MUTED, "linewidth": 1, "linestyle": (0, (1.5, 2)), "zorder": 1}


def draw(experiment: Experiment, results: dict[str, Result]) -> str | None:
    """Return an experiment's picture as SVG, or None if none of its runs is done."""
    if not any(run.digest in results for run in experiment.runs):
        return None
    kinds = {"curves": _curves, "points": _points, "counts": _counts, "bytes": _bytes, "budgets": _budgets}
    with matplotlib.rc_context(charts.SETTINGS):
        return _svg(kinds[experiment.kind](experiment, results))


# Kinds of pictures


def _curves(experiment: Experiment, results: dict[str, Result]) -> Figure:
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.add_subplot()
    ends = []
    for style, (cell, line) in enumerate(zip(experiment.cells, lines(experiment, results), strict=True)):
        rounds = _by_round([result.accuracies for result in found(cell, results).values()])
        if not rounds:
            continue
        numbers = range(1, len(rounds) + 1)
        _band(axes, numbers, rounds, style, cell is experiment.ceiling_cell)
        ends.append((rounds[-1].mean, f"{cell.label} {line.ours.mean:.1f}", style))
    _floor(axes, experiment, results)
    _frame(axes, "accuracy %", "round")
    axes.set_xticks(charts.round_numbers(1, max(len(line.get_xdata()) for line in axes.lines)))
    _label_ends(axes, ends)
    return figure


def _points(experiment: Experiment, results: dict[str, Result]) -> Figure:
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.add_subplot()
    table = {line.label: line for line in lines(experiment, results)}
    grid = [cell for cell in experiment.cells if cell.row is not None]
    rows = list(dict.fromkeys(cell.row for cell in grid))
    columns = list(dict.fromkeys(cell.column for cell in grid))
    ends = []
    for style, column in enumerate(columns):
        shift = 0.12 * (style - (len(columns) - 1) / 2)  # whiskers side by side
        known = [
            (rows.index(cell.row) + shift, table[cell.label].ours)
            for cell in grid
            if cell.column == column and table[cell.label].ours
        ]
        if not known:
            continue
        x, y = [place for place, _ in known], [ours.mean for _, ours in known]
        axes.plot(x, y, **_style(style), marker=charts.MARKERS[style % 8], markeredgecolor=charts.PAPER, zorder=3)
        for place, ours in known:
            if ours.deviation is not None:
                ends_of_it = (ours.mean - ours.deviation, ours.mean + ours.deviation)
                axes.plot([place, place], ends_of_it, color=charts.colour(style), linewidth=1)
        ends.append((y[-1], column, style))
    _floor(axes, experiment, results)
    if experiment.ceiling and table[experiment.ceiling].ours:
        _rule(axes, table[experiment.ceiling].ours.mean, f"full training: {experiment.ceiling}")
    _frame(axes, "accuracy %", experiment.axis or "")
    axes.set_xticks(range(len(rows)), rows)
    axes.set_xlim(-0.4, len(rows) - 0.6)
    _label_ends(axes, ends)
    return figure


def _counts(experiment: Experiment, results: dict[str, Result]) -> Figure:
    """One heat map a cell, of its first seed, clients down and layers across."""
    panels = [(cell, mine[min(mine)]) for cell in experiment.cells if (mine := found(cell, results))]
    clients = len(panels[0][1].trained)
    figure = Figure(figsize=(WIDTH, len(panels) * (0.6 + 0.19 * clients)), layout="constrained")
    for axes, (cell, result) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        rounds = len(result.accuracies)
        boxes: dict[int, list] = {}
        for row, counts in enumerate(result.trained.values()):
            for column, count in enumerate(counts):
                step = charts.level(count, rounds)
                boxes.setdefault(step, []).append((column + 0.04, row + 0.06, column + 0.96, row + 0.94))
                shade = charts.PAPER if charts.strength(step) > 0.6 else charts.INK
                axes.text(column + 0.5, row + 0.54, count, ha="center", va="center", color=shade, fontsize=7.5)
        for step, found_boxes in boxes.items():
            fill = {"facecolor": charts.HEAT, "alpha": charts.strength(step)} if step else {"facecolor": charts.CELL}
            axes.add_patch(PathPatch(charts.outline(found_boxes), linewidth=0, zorder=0, **fill))
        axes.set_title(f"{cell.label}, {rounds} rounds, seed {result.settings['seed']}")
        axes.set_xlim(0, len(result.layers))
        axes.set_ylim(clients, 0)
        axes.set_xticks([place + 0.5 for place in range(len(result.layers))], result.layers)
        axes.set_yticks([place + 0.5 for place in range(clients)], result.trained)
        axes.tick_params(length=0, labelsize=8)
        axes.spines["bottom"].set_visible(False)
    return figure


def _bytes(experiment: Experiment, results: dict[str, Result]) -> Figure:
    figure = Figure(figsize=(WIDTH, 0.7 + 0.62 * len(experiment.cells)), layout="constrained")
    axes = figure.add_subplot()
    for row, cell in enumerate(experiment.cells):
        _, share = sent(cell, results)
        printed = paper_sent(cell)
        known = [(share and share.mean, charts.colour(0), "ours"), (printed and printed[1], charts.MUTED, "paper")]
        for number, (value, colour, word) in enumerate(known):
            if value is None:
                continue
            place = row + 0.34 * number
            axes.barh(place, value, 0.3, color=colour, linewidth=0)
            axes.text(value + 1, place, f"{value:.1f}  {word}", va="center", color=charts.INK)
        if share and share.deviation:
            ends = [share.mean - share.deviation, share.mean + share.deviation]
            axes.plot(ends, [row, row], color=charts.INK, linewidth=1)
    axes.set_yticks([row + 0.17 for row in range(len(experiment.cells))], [cell.label for cell in experiment.cells])
    axes.set_ylim(len(experiment.cells) - 0.3, -0.35)
    axes.set_xlim(0, 118)
    axes.set_title("bytes sent, % of full training")
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.spines["left"].set_visible(False)
    return figure


def _budgets(experiment: Experiment, results: dict[str, Result]) -> Figure:
    """Accuracy by bytes sent, and by computing; both counted in rounds of full training."""
    figure = Figure(figsize=(WIDTH, 6.2), layout="constrained")
    parts = figure.subplots(2)
    units = {"upload_bytes": "bytes sent", "training_macs": "multiply-accumulates of training"}
    for axes, (kind, words) in zip(parts, units.items(), strict=True):
        unit = _full_round(experiment, results, kind)
        ends, longest = [], 0.0
        for style, cell in enumerate(experiment.cells):
            mine = found(cell, results).values()
            rounds = _by_round([result.accuracies for result in mine])
            if not rounds or unit is None:
                continue
            totals = zip(*(accumulate(getattr(result, kind)) for result in mine), strict=True)
            spent = [statistics.fmean(values) / unit for values in totals]
            _band(axes, spent, rounds, style, cell is experiment.ceiling_cell)
            ends.append((rounds[-1].mean, cell.label, style))
            if cell is not experiment.ceiling_cell:
                longest = max(longest, spent[-1])
        limits = budgets(experiment, results, kind)
        if longest:
            axes.set_xlim(0, 1.3 * longest)  # full training goes on, and nobody is beside it there
        if limits and unit:
            axes.axvline(
                statistics.fmean(limits.values()) / unit, color=charts.MUTED, linewidth=1, linestyle=(0, (1.5, 2))
            )
        _floor(axes, experiment, results)
        _frame(axes, "accuracy %", f"{words}, in rounds of full training")
        _label_ends(axes, ends)
    return figure


# Parts of pictures


def _by_round(accuracies: list[list[float]]) -> list:
    """Return for each round the spread over runs, in percent."""
    return [spread([100 * value for value in values]) for values in zip(*accuracies, strict=True)]


def _full_round(experiment: Experiment, results: dict[str, Result], kind: str) -> float | None:
    """Return what a round of full training takes."""
    full = found(experiment.ceiling_cell, results).values() if experiment.ceiling_cell else []
    return statistics.fmean(getattr(result, kind)[0] for result in full) if full else None


def _style(style: int) -> dict:
    return {"color": charts.colour(style), "linestyle": charts.DASHES[charts.dash(style)]}


def _band(axes, x, rounds: list, style: int, reference: bool) -> None:
    """Draw a line of means with a band of one standard deviation; full training as a heavier line."""
    means = [one.mean for one in rounds]
    wide = [one.deviation or 0.0 for one in rounds]
    low, high = ([mean + sign * gap for mean, gap in zip(means, wide, strict=True)] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=charts.colour(style), alpha=0.14, linewidth=0)
    axes.plot(x, means, **_style(style), linewidth=2.2 if reference else 1.4, zorder=3)


def _floor(axes, experiment: Experiment, results: dict[str, Result]) -> None:
    floors = [line.floor.mean for line in lines(experiment, results) if line.floor]
    _rule(axes, statistics.fmean(floors), "majority class")


def _rule(axes, height: float, word: str) -> None:
    axes.axhline(height, **QUIET)
    axes.annotate(
        *(word, (1, height)),
        xycoords=("axes fraction", "data"),
        xytext=(-3, 3),
        ha="right",
        textcoords="offset points",
        color=charts.MUTED,
        fontsize=8,
    )


def _frame(axes, unit: str, x_label: str) -> None:
    axes.set_title(unit)
    axes.set_xlabel(x_label, loc="right")
    axes.grid(axis="y")


def _label_ends(axes, ends: list[tuple[float, str, int]]) -> None:
    """Write labels right of where lines end, moved apart where they would cover each other."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.062
    places: list[float] = []
    ordered = sorted(ends, key=lambda end: end[0])
    for height, _, _ in ordered:
        places.append(max(height, places[-1] + gap) if places else height)
    middle = statistics.fmean(height for height, _, _ in ordered) if ordered else 0
    shift = min(middle - statistics.fmean(places), 0) if places else 0
    for place, (_, text, style) in zip(places, ordered, strict=True):
        axes.annotate(
            *(text, (1, place + shift)),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=charts.colour(style),
            annotation_clip=False,
        )


# Colours


@functools.cache
def _light() -> dict[str, str]:
    """Return {CSS variable: colour} of the report's light page."""
    page = Path(charts.__file__).with_name("page.html").read_text()
    root = page[page.index(":root {") :]
    return dict(re.findall(r"(--\w+): (#[0-9a-f]{6})", root[: root.index("}")]))


def _svg(figure: Figure) -> str:
    """Return the figure as an SVG file in which the report's variables are its light colours."""
    figure.patch.set_facecolor(charts.PAPER)
    target = io.StringIO()
    figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", target.getvalue(), flags=re.S)
    text = re.sub(r' transform="rotate\(-0 [^"]*"|(?<=<g) id="[^"]*"', "", text)
    text = text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    return re.sub("#000[0-9a-f]{3}", lambda match: _light()[charts.VARIABLES[match[0]]], text)
