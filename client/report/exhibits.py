"""Chooses what a page shows of the tables, and what it says to each chart: title, takeaway, legend, CSV file."""

from __future__ import annotations

from markupsafe import Markup

from fedn_partial.client.records.load import Run
from fedn_partial.client.report import captions, charts, paper, statistics
from fedn_partial.client.report.charts import Bar, Heat, Series
from fedn_partial.client.report.statistics import Summary, Table

MOST_BARS = 16  # of the chart of phases
MOST_CLIENTS = 40  # columns of a heat map by client
PHASE_WORDS = (*statistics.PHASES, "rest")


MARKERS = {
    "o": '<circle cx="14" cy="6" r="3.5"/>',
    "s": '<rect x="11" y="3" width="6" height="6"/>',
    "^": '<path d="M14 2l4 7.5h-8z"/>',
    "D": '<path d="M14 1.5l4.5 4.5-4.5 4.5-4.5-4.5z"/>',
    "v": '<path d="M14 10l4-7.5h-8z"/>',
    "P": '<path d="M12.5 2h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z"/>',
    "X": '<path d="M11 1.5l3 3 3-3 1.5 1.5-3 3 3 3-1.5 1.5-3-3-3 3-1.5-1.5 3-3-3-3z"/>',
    "p": '<path d="M14 2l4 3-1.5 4.5h-5l-1.5-4.5z"/>',
}
DASHES = ("none", "6 2.5", "2.5 2", "9 2.5 2.5 2.5")


def _chart(title: str, takeaway: str, svg: str | None, csv: str, legend=(), note: str = "") -> dict:
    return {
        "title": title,
        "takeaway": takeaway,
        "svg": Markup(svg) if svg else None,
        "csv": csv,
        "legend": legend,
        "note": note,
    }


def run_charts(runs: list[Run], summaries: list[Summary], tables: dict[str, Table]) -> dict[str, list[dict]]:
    """Return the charts of all runs together, by section of the page."""
    if not any(run.rows for run in runs):
        return {}
    labels = [run.label for run in runs]
    legend = [(style, label) for style, label in enumerate(labels)] if len(labels) > 1 else []
    rounds, costs = tables["rounds"], tables["costs"]
    band = _warmup_band(rounds, labels)

    def by_round(key: str, factor: float = 1.0) -> list[Series]:
        found = []
        for style, label in enumerate(labels):
            records = rounds.records(run=label)
            failed = tuple(record["round"] for record in records if record["failed"])
            y = tuple(None if r[key] is None else factor * r[key] for r in records)
            found.append(Series(style, tuple(record["round"] for record in records), y, crosses=failed))
        return found

    def chart(name, title, takeaway, series, unit, csv="rounds", **options):
        return _chart(title, takeaway, charts.lines(name, f"{title}. {takeaway}", series, unit, **options), csv, legend)

    failed = any(record["failed"] for record in rounds.records())
    crossed = " A cross on the axis is a round that failed." if failed else ""
    learning = [
        chart(
            "accuracy",
            "Accuracy by round",
            captions.accuracy_takeaway(rounds, labels) + crossed,
            by_round("accuracy", 100),
            "accuracy, %",
            band=band,
            top=100,
        ),
        chart(
            "loss",
            "Loss by round",
            "How far the model's answers are from the right ones on the clients' test examples; lower is better.",
            by_round("loss"),
            "loss (cross-entropy)",
            band=band,
        ),
    ]
    unit, factor = _byte_unit([r[key] for r in rounds.records() for key in ("upload_bytes", "download_bytes")])
    sent = by_round("upload_bytes", factor)
    for label in labels[:1]:
        records = rounds.records(run=label)
        y = tuple(None if r["full_upload_bytes"] is None else factor * r["full_upload_bytes"] for r in records)
        sent.append(Series(0, tuple(record["round"] for record in records), y, reference=True))
    traffic = [
        chart(
            "sent",
            "Sent by the clients, by round",
            captions.upload_takeaway(summaries) + (f" Dotted: full updates ({labels[0]})." if len(labels) > 1 else ""),
            sent,
            unit,
            band=band,
            zero=True,
        ),
        chart(
            "received",
            "Received by the clients, by round",
            captions.download_takeaway(summaries),
            by_round("download_bytes", factor),
            unit,
            band=band,
            zero=True,
        ),
    ]
    return {
        "learning": learning,
        "traffic": traffic,
        "costs": [
            _phases_chart(costs, labels),
            *(
                _chart(
                    title,
                    takeaway,
                    charts.lines(
                        *(name, f"{title}. {takeaway}", _by_layers(costs, labels, key, scale), unit, "layers trained"),
                        zero=True,
                        ticks=sorted({record["layers"] for record in costs.records()}),
                    ),
                    "costs",
                    legend,
                )
                for name, title, takeaway, key, unit, scale in (
                    (
                        *("cpu", "Processor by number of layers trained"),
                        "Mean load while a client trains; 100 % is one processor. Thin lines: lowest and highest.",
                        *("cpu_percent", "processor, %", 1.0),
                    ),
                    (
                        *("memory", "Memory by number of layers trained"),
                        "Mean of the highest memory that a client's round took. Thin lines: lowest and highest.",
                        *("memory_mb", "memory, MB", 1.0),
                    ),
                    (
                        *("update", "Bytes of an update by number of layers trained"),
                        "What one client sends in one round. Thin lines: lowest and highest, as layers differ in size.",
                        *("upload_bytes", *_byte_unit([record["upload_bytes"] for record in costs.records()])),
                    ),
                )
            ),
        ],
    }


def _warmup_band(rounds: Table, labels: list[str]):
    """Return the rounds to shade as warm-up, if they are the same in every run that has partial rounds."""
    found = set()
    for label in labels:
        records = rounds.records(run=label)
        if any(not record["warmup"] and record["layers"] for record in records):
            found.add(tuple(record["round"] for record in records if record["warmup"]))
    found.discard(())
    if len(found) != 1:
        return None
    numbers = found.pop()
    return (numbers[0], numbers[-1], "warm-up") if numbers[-1] - numbers[0] + 1 == len(numbers) else None


def _byte_unit(counts: list) -> tuple[str, float]:
    highest = max((count for count in counts if count is not None), default=0)
    return next(
        (unit, 1 / size) for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if highest >= size or size == 1e3
    )


def _by_layers(costs: Table, labels: list[str], key: str, scale: float) -> list[Series]:
    def scaled(records: list[dict], column: str) -> tuple:
        return tuple(None if record[column] is None else scale * record[column] for record in records)

    found = []
    for style, label in enumerate(labels):
        records = costs.records(run=label)
        layers = tuple(record["layers"] for record in records)
        ends = {"low": scaled(records, f"{key}_lowest"), "high": scaled(records, f"{key}_highest")}
        found.append(Series(style, layers, scaled(records, key), **ends))
    return found


def _phases_chart(costs: Table, labels: list[str]) -> dict:
    bars = []
    records = costs.records()
    frequent = sorted(range(len(records)), key=lambda index: -records[index]["updates"])[:MOST_BARS]
    for record in (records[index] for index in sorted(frequent)):
        name = "" if len(labels) == 1 else f"{record['run']}, "
        label = f"{name}{captions.plural(record['layers'], 'layer')}"
        bars.append(Bar(label, tuple(record[f"{phase}_seconds"] for phase in PHASE_WORDS)))
    title, takeaway = "Seconds by phase of a client's round", captions.phases_takeaway(costs)
    if len(bars) < len(records):
        takeaway += (
            f" The {len(bars)} most frequent of {len(records)} numbers of layers; the others are in the CSV file."
        )
    svg = charts.bars("phases", f"{title}. {takeaway}", bars, PHASE_WORDS, "s")
    return _chart(title, takeaway, svg, "costs", [(f"p{n}", word) for n, word in enumerate(PHASE_WORDS)])


def layer_maps(runs: list[Run], tables: dict[str, Table]) -> list[dict]:
    """Return for each run the heat maps of who trained which layer when."""
    found = []
    for number, run in enumerate(runs):
        layers = statistics.layer_names(run)
        records = tables["layers"].records(run=run.label)
        if all(record["clients"] == record["of_clients"] for record in records):
            continue  # a map of one colour, or none
        by_layer = {name: [record for record in records if record["layer"] == name] for name in layers}
        first = by_layer[layers[0]]
        ages = {record["layer"]: record for record in tables["staleness"].records(run=run.label)}
        whose = f"{run.label}: " if len(runs) > 1 else ""
        title = f"{whose}Clients that trained a layer, by round"
        takeaway = captions.layers_takeaway(tables["layers"], tables["rounds"], tables["staleness"], run.label)
        when = Heat(
            rows=tuple(layers),
            columns=tuple(str(record["round"]) for record in first),
            counts=tuple(tuple(record["clients"] for record in by_layer[name]) for name in layers),
            wholes=tuple(record["of_clients"] for record in first),
            x_label="round",
            note_heads=("stale", "longest"),
            notes=tuple((str(ages[name]["staleness"]), str(ages[name]["longest_staleness"])) for name in layers),
        )
        note = "Right of the map: staleness at the end, and the longest in the run."
        svg = charts.heat(f"when{number}", f"{title}. {takeaway}", when)
        found.append(_chart(title, takeaway, svg, "layers", _scale(max(when.wholes)), note))
        found.append(_who(number, run, whose, layers, tables["layers_by_client"]))
    return found


def _who(number: int, run: Run, whose: str, layers: list[str], table: Table) -> dict:
    title = f"{whose}Rounds in which a layer was trained, by client"
    records = table.records(run=run.label)
    clients = list(dict.fromkeys(record["client"] for record in records))
    if len(clients) > MOST_CLIENTS:
        return _chart(
            title, f"{len(clients):,} clients are too many for a map; see the CSV file.", None, "layers_by_client"
        )
    counts = {(record["layer"], record["client"]): record["rounds"] for record in records}
    answered = {record["client"]: record["of_rounds"] for record in records}
    per_layer = {name: sum(counts[name, client] for client in clients) for name in layers}
    most, fewest = max(per_layer, key=per_layer.get), min(per_layer, key=per_layer.get)
    takeaway = (
        "Every layer was trained equally often."
        if per_layer[most] == per_layer[fewest]
        else f"Most often trained: {most} ({per_layer[most]:,} times), most seldom {fewest} ({per_layer[fewest]:,})."
    )
    who = Heat(
        rows=tuple(layers),
        columns=tuple(clients),
        counts=tuple(tuple(counts[name, client] for client in clients) for name in layers),
        wholes=tuple(answered[client] for client in clients),
        x_label="client",
    )
    svg = charts.heat(f"who{number}", f"{title}. {takeaway}", who)
    return _chart(title, takeaway, svg, "layers_by_client", _scale(max(who.wholes)), "Colour: share of its rounds.")


def _scale(whole: int) -> list[tuple[str, str]]:
    """Return the legend of a heat map: colour step and what it means, counts if there are few."""
    if whole <= charts.LEVELS:
        return [(f"h{charts.level(count, whole)}", str(count)) for count in range(int(whole) + 1)]
    return [
        ("h0", "none"),
        *((f"h{step}", f"to {100 * step // charts.LEVELS} %") for step in range(1, charts.LEVELS + 1)),
    ]


def profile_charts(costs: paper.Costs, number: int) -> list[dict]:
    tried = [flavour for flavour in costs.flavours if any(pair.ours for pair in flavour.pairs.values())]
    legend = [(style, flavour.name) for style, flavour in enumerate(tried)]
    found = []
    for key, title, unit, takeaway in (
        ("seconds", "Seconds of training by number of layers", "seconds", "Training in a round, one client."),
        (
            "cpu_percent",
            "Processor by number of layers",
            "processor, %",
            "100 % is all its processors busy.",
        ),
        ("ram_mb", "Memory by number of layers", "memory, MB", "Highest memory of the whole container."),
    ):
        series = []
        for style, flavour in enumerate(tried):
            cells = {layers: pair.ours for layers, pair in flavour.pairs.items() if pair.ours}
            killed = tuple(layers for layers, cell in cells.items() if cell.killed)
            y = tuple(None if cell.killed else getattr(cell, key) for cell in cells.values())
            series.append(Series(style, tuple(cells), y, crosses=killed))
        crossed = " A cross on the axis: ended for lack of memory." if any(one.crosses for one in series) else ""
        svg = charts.lines(
            *(f"{key}{number}", f"{title}. {takeaway}{crossed}", series, unit, "layers trained"),
            zero=True,
            ticks=list(costs.columns),
        )
        found.append(_chart(title, takeaway + crossed, svg, "flavours", legend))
    return found


def swatch(key: int | str) -> Markup:
    """Return the sign of a legend's entry: of a line by its style, of a phase ("p0") or a heat map's step ("h0")."""
    if isinstance(key, int):
        dashes = DASHES[charts.dash(key)]
        line = f'<path d="M0 6h28" stroke="var(--s{key % 8})" stroke-dasharray="{dashes}" stroke-width="2"/>'
        mark = f'<g fill="var(--s{key % 8})">{MARKERS[charts.MARKERS[key % 8]]}</g>'
        return _small_svg(28, line + mark)
    if key.startswith("p"):
        fill = f'fill="var(--{key})"'
    else:
        step = int(key[1:])
        fill = f'fill="var(--heat)" fill-opacity="{charts.strength(step)}"' if step else 'fill="var(--cell)"'
    box = f'<rect width="12" height="12" rx="1" {fill}/>'
    return _small_svg(12, box)


def _small_svg(width: int, content: str) -> Markup:
    box = f'width="{width}" height="12" viewBox="0 0 {width} 12"'
    return Markup(f'<svg class="swatch" {box} aria-hidden="true">{content}</svg>')
