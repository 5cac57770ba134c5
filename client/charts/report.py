"""The charts of a report: learning, bytes and costs of runs, and costs of profiles."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import pandas as pd
from markupsafe import Markup

from fedn_partial.client.charts import captions
from fedn_partial.client.charts.bars import Bar, bar_chart
from fedn_partial.client.charts.legend import Legend
from fedn_partial.client.charts.lines import LineAxes, Series, line_chart
from fedn_partial.client.report.paper import ProfileCosts
from fedn_partial.client.report.summary import Summary
from fedn_partial.client.report.tables import PHASES, records
from fedn_partial.client.report.wording import plural

MOST_BARS = 16  # of the chart of phases
PIECES = (*PHASES, "rest")


@dataclass(frozen=True)
class Chart:
    """A chart of the page; `svg` is None if nothing of it is known, `csv` is the table of its figures."""

    title: str
    takeaway: str
    csv: str
    svg: Markup | None = None
    legend: Legend = field(default_factory=list)
    note: str = ""

    @property
    def description(self) -> str:
        """What a screen reader says of the chart."""
        return f"{self.title}. {self.takeaway}"

    def drawn(self, svg: str | None) -> Chart:
        """Return the chart with its SVG, which is our own and not escaped."""
        return dataclasses.replace(self, svg=Markup(svg) if svg else None)


def run_charts(summaries: list[Summary], tables: dict[str, pd.DataFrame]) -> dict[str, list[Chart]]:
    """Return the charts of all runs together, by section of the page; nothing if no client has answered."""
    rounds, costs = tables["rounds"], tables["costs"]
    if rounds.empty:
        return {}
    labels = [run.label for run in summaries]
    legend = list(enumerate(labels)) if len(labels) > 1 else []
    return {
        "learning": _learning_charts(rounds, labels, legend),
        "traffic": _traffic_charts(rounds, summaries, legend),
        "costs": [_phases_chart(costs, labels), *_cost_charts(costs, labels, legend)],
    }


def _learning_charts(rounds: pd.DataFrame, labels: list[str], legend: Legend) -> list[Chart]:
    crossed = " A cross on the axis is a round that failed." if rounds["failed"].any() else ""
    accuracy = Chart("Accuracy by round", captions.accuracy(rounds, labels) + crossed, "rounds", legend=legend)
    loss = Chart("Loss by round", captions.LOSS, "rounds", legend=legend)
    band = _warmup_band(rounds, labels)
    return [
        _by_round_chart("accuracy", accuracy, _by_round(rounds, labels, "accuracy", 100), "accuracy, %", band, top=100),
        _by_round_chart("loss", loss, _by_round(rounds, labels, "loss"), "loss (cross-entropy)", band),
    ]


def _traffic_charts(rounds: pd.DataFrame, summaries: list[Summary], legend: Legend) -> list[Chart]:
    labels = [run.label for run in summaries]
    unit, factor = _byte_unit(rounds[["upload_bytes", "download_bytes"]].max().max())
    sent = _by_round(rounds, labels, "upload_bytes", factor)
    (full,) = _by_round(rounds, labels[:1], "full_upload_bytes", factor)
    sent.append(dataclasses.replace(full, crosses=(), reference=True))
    received = _by_round(rounds, labels, "download_bytes", factor)
    band = _warmup_band(rounds, labels)
    title = "Sent by the clients, by round"
    first = Chart(title, captions.sent(summaries), "rounds", legend=legend)
    second = Chart("Received by the clients, by round", captions.received(summaries), "rounds", legend=legend)
    return [
        _by_round_chart("sent", first, sent, unit, band, zero=True),
        _by_round_chart("received", second, received, unit, band, zero=True),
    ]


def _by_round_chart(name: str, chart: Chart, series: list[Series], unit: str, band, **layout) -> Chart:
    return chart.drawn(line_chart(name, chart.description, series, LineAxes(unit, band=band, **layout)))


def _by_round(rounds: pd.DataFrame, labels: list[str], key: str, factor: float = 1.0) -> list[Series]:
    """Return a column of the table of rounds as one series a run."""
    series = []
    for style, label in enumerate(labels):
        rows = records(rounds, run=label)
        failed = tuple(row["round"] for row in rows if row["failed"])
        series.append(Series(style, _column(rows, "round"), _column(rows, key, factor), crosses=failed))
    return series


def _column(rows: list[dict], key: str, factor: float = 1) -> tuple:
    return tuple(None if row[key] is None else factor * row[key] for row in rows)


def _warmup_band(rounds: pd.DataFrame, labels: list[str]) -> tuple[int, int, str] | None:
    """Return the rounds to shade as warm-up, if they are the same in every run that has partial rounds."""
    bands = set()
    for label in labels:
        rows = records(rounds, run=label)
        if any(not row["warmup"] and row["layers"] for row in rows):
            bands.add(tuple(row["round"] for row in rows if row["warmup"]))
    bands.discard(())
    if len(bands) != 1:
        return None
    numbers = bands.pop()
    return (numbers[0], numbers[-1], "warm-up") if numbers[-1] - numbers[0] + 1 == len(numbers) else None


def _byte_unit(highest) -> tuple[str, float]:
    """Return a unit for bytes up to `highest`, and the factor to it."""
    units = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
    return next((unit, 1 / size) for unit, size in units if size == 1e3 or (pd.notna(highest) and highest >= size))


def _cost_charts(costs: pd.DataFrame, labels: list[str], legend: Legend) -> list[Chart]:
    """Return the charts of costs by number of layers."""
    ends = "Thin lines: lowest and highest"
    processor = Chart(
        "Processor by number of layers trained",
        f"Mean load while a client trains; 100 % is one processor. {ends}.",
        "costs",
        legend=legend,
    )
    memory = Chart(
        "Memory by number of layers trained",
        f"Mean of the highest memory of a client's round. {ends}.",
        "costs",
        legend=legend,
    )
    update = Chart(
        "Bytes of an update by number of layers trained",
        f"What one client sends in one round. {ends}, as layers differ in size.",
        "costs",
        legend=legend,
    )
    unit, factor = _byte_unit(costs["upload_bytes"].max())
    ticks = tuple(sorted(costs["layers"].unique().tolist()))
    charts = []
    for name, chart, key, unit_, scale in (
        ("cpu", processor, "cpu_percent", "processor, %", 1.0),
        ("memory", memory, "memory_mb", "memory, MB", 1.0),
        ("update", update, "upload_bytes", unit, factor),
    ):
        layout = LineAxes(unit_, "layers trained", zero=True, ticks=ticks)
        charts.append(chart.drawn(line_chart(name, chart.description, _by_layers(costs, labels, key, scale), layout)))
    return charts


def _by_layers(costs: pd.DataFrame, labels: list[str], key: str, factor: float) -> list[Series]:
    """Return a column of the table of costs, with its ends, as one series a run."""
    series = []
    for style, label in enumerate(labels):
        rows = records(costs, run=label)
        ends = {"low": _column(rows, f"{key}_lowest", factor), "high": _column(rows, f"{key}_highest", factor)}
        series.append(Series(style, _column(rows, "layers"), _column(rows, key, factor), **ends))
    return series


def _phases_chart(costs: pd.DataFrame, labels: list[str]) -> Chart:
    frequent = costs.sort_values("updates", ascending=False, kind="stable").head(MOST_BARS).sort_index()
    bars = []
    for row in records(frequent):
        name = "" if len(labels) == 1 else f"{row['run']}, "
        pieces = tuple(row[f"{piece}_seconds"] for piece in PIECES)
        bars.append(Bar(f"{name}{plural(row['layers'], 'layer')}", pieces))
    takeaway = captions.phases(costs)
    if len(bars) < len(costs):
        takeaway += f" The {len(bars)} most frequent of {len(costs)} numbers of layers; the others are in the CSV file."
    legend = [(f"p{number}", piece) for number, piece in enumerate(PIECES)]
    chart = Chart("Seconds by phase of a client's round", takeaway, "costs", legend=legend)
    return chart.drawn(bar_chart("phases", chart.description, bars, PIECES, "s"))


def profile_charts(costs: ProfileCosts, number: int) -> list[Chart]:
    """Return the charts of one profile, the one with this number on the page."""
    tried = [flavour for flavour in costs.flavours if any(pair.ours for pair in flavour.pairs.values())]
    legend = [(style, flavour.name) for style, flavour in enumerate(tried)]
    charts = []
    for key, title, unit, takeaway in (
        ("seconds", "Seconds of training by number of layers", "seconds", "Training in a round, one client."),
        ("cpu_percent", "Processor by number of layers", "processor, %", "100 % is all processors of the container."),
        ("ram_mb", "Memory by number of layers", "memory, MB", "Highest memory of the whole container."),
    ):
        series = []
        for style, flavour in enumerate(tried):
            cells = {layers: pair.ours for layers, pair in flavour.pairs.items() if pair.ours}
            killed = tuple(layers for layers, cell in cells.items() if cell.killed)
            y = tuple(None if cell.killed else getattr(cell, key) for cell in cells.values())
            series.append(Series(style, tuple(cells), y, crosses=killed))
        crossed = " A cross on the axis: killed for lack of memory." if any(item.crosses for item in series) else ""
        chart = Chart(title, takeaway + crossed, "flavours", legend=legend)
        layout = LineAxes(unit, "layers trained", zero=True, ticks=costs.columns)
        charts.append(chart.drawn(line_chart(f"{key}{number}", chart.description, series, layout)))
    return charts
