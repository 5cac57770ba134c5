"""Draws charts as SVG for a page: text stays text, and colours are CSS variables, so that light and dark both work.

A chart is about as wide as a phone, so that its text stays readable there and does not grow big on a desk.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import FuncFormatter, MaxNLocator

WIDTH = 4.2  # inches; 403 CSS pixels
FONT_SIZE = 9  # points; 12 CSS pixels
FEW_POINTS = 40  # up to here every point gets its marker
NUMBERED_CELLS = 12  # a heat map with at most as many columns has its numbers in it
LEVELS = 5  # steps of a heat map's colour
STRENGTHS = (0.0, 0.2, 0.34, 0.5, 0.8, 1.0)  # of that colour; on the middle ones dark and light text can both be read
MOST_COLUMNS = 120  # of a heat map; more are joined

# Matplotlib knows colours only as such: each of these stands for a CSS variable, which takes its place in the SVG.
VARIABLES = {
    "#000001": "--ink",
    "#000002": "--muted",
    "#000003": "--line",
    "#000004": "--paper",
    "#000005": "--band",
    "#000006": "--cell",
    "#000007": "--heat",
    **{f"#0001{number:02x}": f"--s{number}" for number in range(8)},
    **{f"#0002{number:02x}": f"--p{number}" for number in range(6)},
}
COLOURS = {variable: colour for colour, variable in VARIABLES.items()}
INK, MUTED, LINE, PAPER, BAND, CELL, HEAT = (
    COLOURS[name] for name in ("--ink", "--muted", "--line", "--paper", "--band", "--cell", "--heat")
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES = ("-", (0, (4, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedn-partial",  # equal figures make equal pages
    "font.size": FONT_SIZE,
    "font.family": "DejaVu Sans",  # comes with matplotlib, and is wider than most: what fits in it fits
    "text.parse_math": False,  # a name may hold a $
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": MUTED,
    "axes.titlelocation": "left",
    "axes.titlesize": FONT_SIZE,
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}


@dataclass(frozen=True)
class Series:
    """A line of a chart: points in the order of x; y is None where it is not known.

    Attributes
    ----------
    style : number of its colour, marker and dash; equal for a run in all charts.
    crosses : x of what failed. low, high : ends of a thin line through each point.
    reference : whether it is what others are measured by, drawn quietly and without markers.
    """

    style: int
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    crosses: tuple[float, ...] = ()
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    reference: bool = False


@dataclass(frozen=True)
class Bar:
    """A bar of pieces, one after the other; a piece is None if it is not known."""

    label: str
    pieces: tuple[float | None, ...]


@dataclass(frozen=True)
class Heat:
    """A heat map: `counts[row][column]` out of `wholes[column]`. `notes[row]`: what stands right of a row."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[float, ...], ...]
    wholes: tuple[float, ...]
    x_label: str
    note_heads: tuple[str, ...] = ()
    notes: tuple[tuple[str, ...], ...] = ()


def dash(style: int) -> int:
    """Return the number of a style's dash: the ninth line has the first one's colour and marker, and another dash."""
    return (style + style // 8) % 4


def colour(style: int) -> str:
    return COLOURS[f"--s{style % 8}"]


def lines(name: str, title: str, series: list[Series], unit: str, x_label: str = "round", **options) -> str | None:
    """Return a line chart as SVG, or None if no point is known.

    Parameters
    ----------
    name : of the chart, for ids that no other chart of the page has. title : what a screen reader says of it.
    unit : stands above the y axis.
    options : `band`, (first, last, word) of x to shade; `zero`, whether y begins at 0; `ticks`, of x; `top`, of y.
    """
    drawn = [one for one in series if any(value is not None for value in one.y) or one.crosses]
    if not any(value is not None for one in drawn for value in one.y):
        return None
    with matplotlib.rc_context(SETTINGS):
        figure, axes = _figure(2.5)
        real = [one for one in drawn if not one.reference]
        for position, one in enumerate(drawn):
            y = [float("nan") if value is None else value for value in one.y]
            if one.reference:
                axes.plot(one.x, y, color=MUTED, linewidth=1, linestyle=(0, (1.5, 2)))
                continue
            few = len(one.x) <= FEW_POINTS
            shift = 0.14 * (position - (len(drawn) - 1) / 2) if one.low else 0  # whiskers side by side
            x = [value + shift for value in one.x]
            marker = MARKERS[one.style % 8] if few or len(real) > 1 else None
            axes.plot(
                *(x, y),
                color=colour(one.style),
                linestyle=DASHES[dash(one.style)] if len(real) > 1 else "-",
                marker=marker,
                markevery=1 if few else max(1, len(x) // 8),
                markeredgecolor=PAPER,
                markeredgewidth=0.6,
                clip_on=False,
                zorder=3,
            )
            for place, low, high in zip(x, one.low, one.high, strict=False):
                if low is not None:
                    axes.plot([place, place], [low, high], color=colour(one.style), linewidth=0.8)
        if options.get("zero", False):
            axes.set_ylim(bottom=0)
        low, high = axes.get_ylim()
        if options.get("top") is not None:
            axes.set_ylim(top=min(options["top"], high))
        for one in drawn:
            floor = [axes.get_ylim()[0]] * len(one.crosses)
            axes.plot(one.crosses, floor, "x", color=colour(one.style), markersize=6, clip_on=False, zorder=4)
        _band(axes, options.get("band"), drawn)
        _axes(axes, unit, x_label, options.get("ticks"))
        _end_value(axes, real)
        return _svg(figure, name, title)


def _band(axes, band, series) -> None:
    if not band:
        return
    first, last, word = band
    axes.axvspan(first - 0.5, last + 0.5, color=BAND, linewidth=0, zorder=0)
    inside = [y for one in series for x, y in zip(one.x, one.y, strict=True) if first <= x <= last and y is not None]
    low, high = axes.get_ylim()
    below = bool(inside) and sum(inside) / len(inside) > (low + high) / 2  # where the lines are not
    axes.annotate(
        *(word, (first - 0.5, 0 if below else 1)),
        xycoords=("data", "axes fraction"),
        xytext=(3, 3 if below else -3),
        textcoords="offset points",
        va="bottom" if below else "top",
        color=MUTED,
        fontsize=8,
    )


def _axes(axes, unit: str, x_label: str, ticks) -> None:
    axes.set_title(unit)
    axes.set_xlabel(x_label, loc="right")
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(MaxNLocator(5, min_n_ticks=3))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.set_xticks(round_numbers(*axes.get_xlim()))
    if ticks:
        axes.set_xticks(ticks)
        axes.set_xlim(min(ticks) - 0.7, max(ticks) + 0.7)


def round_numbers(low: float, high: float) -> list[int]:
    """Return some whole numbers between two, the first round among them."""
    step = next((step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500) if (high - low) / step <= 11), int(high / 5))
    multiples = [number for number in range(step, int(high) + 1, step) if number >= low]
    return [1, *multiples] if low <= 1 < step and step > 2 else multiples


def _end_value(axes, series: list[Series]) -> None:
    """Write the last value beside a lonely line."""
    if len(series) != 1:
        return
    points = [(x, y) for x, y in zip(series[0].x, series[0].y, strict=True) if y is not None]
    if len(points) > 1:
        x, y = points[-1]
        axes.annotate(
            f"{y:.3g}" if abs(y) < 100 else f"{y:,.0f}",
            (x, y),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            annotation_clip=False,
        )


def bars(name: str, title: str, found: list[Bar], words: tuple[str, ...], unit: str) -> str | None:
    """Return horizontal bars as SVG, each with its label above and its sum behind, or None if nothing is known.

    A piece that is long enough has its word in it; the last word is the quiet one, for the rest.
    """
    found = [bar for bar in found if any(bar.pieces)]
    if not found:
        return None
    longest = max(sum(filter(None, bar.pieces)) for bar in found)
    with matplotlib.rc_context({**SETTINGS, "axes.spines.bottom": False}):
        figure, axes = _figure(0.45 + 0.46 * len(found))
        for row, bar in enumerate(found):
            left = 0.0
            axes.text(0, row - 0.32, _short(bar.label, 44), va="bottom", color=INK)
            for number, piece in enumerate(bar.pieces):
                if not piece:
                    continue
                quiet = number == len(words) - 1
                axes.barh(row, piece, 0.5, left, color=COLOURS[f"--p{number}"], edgecolor=PAPER, linewidth=0.8)
                if piece > longest * (0.022 * len(words[number]) + 0.03):
                    shade = INK if quiet else PAPER
                    axes.text(left + piece / 2, row, words[number], ha="center", va="center", color=shade, fontsize=8)
                left += piece
            axes.text(left + longest * 0.012, row, f"{left:.1f} {unit}", va="center", color=INK)
        axes.set_ylim(len(found) - 0.6, -0.75)
        axes.set_xlim(0, longest * 1.16)
        axes.set_xticks([])
        axes.set_yticks([])
        return _svg(figure, name, title)


def heat(name: str, title: str, data: Heat) -> str | None:
    """Return a heat map as SVG, or None if it has no cells. Cells of one colour are one outline, to keep it small."""
    if not data.rows or not data.columns:
        return None
    columns, counts, wholes = _joined(data)
    numbered = len(columns) <= NUMBERED_CELLS and columns == data.columns
    with matplotlib.rc_context({**SETTINGS, "axes.spines.bottom": False}):
        figure, axes = _figure(0.62 + 0.21 * len(data.rows))
        gap = 0.06 if len(columns) <= 40 else 0.0
        outlines: dict[int, list] = {}
        for row, values in enumerate(counts):
            start = 0
            steps = [level(value, whole) for value, whole in zip(values, wholes, strict=True)]
            for column, step in enumerate(steps):
                if gap or column + 1 == len(steps) or steps[column + 1] != step:
                    outlines.setdefault(step, []).append((start + gap, row + 0.06, column + 1 - gap, row + 0.94))
                    start = column + 1
                if numbered and values[column]:
                    shade = PAPER if strength(step) > 0.6 else INK
                    place = (column + 0.5, row + 0.52)
                    axes.text(*place, f"{values[column]:.0f}", ha="center", va="center", color=shade, fontsize=7.5)
        for step, boxes in outlines.items():
            fill = {"facecolor": HEAT, "alpha": strength(step)} if step else {"facecolor": CELL}
            axes.add_patch(PathPatch(outline(boxes), linewidth=0, zorder=0, **fill))
        axes.set_xlim(0, len(columns))
        axes.set_ylim(len(data.rows), 0)
        axes.set_yticks([row + 0.5 for row in range(len(data.rows))], [_short(word, 14) for word in data.rows])
        shown = _ticks(len(columns))
        axes.set_xticks([place + 0.5 for place in shown], [_short(columns[place], 12) for place in shown])
        if any(len(columns[place]) > 4 for place in shown) and len(shown) > 3:
            axes.tick_params(axis="x", labelrotation=90)
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel(data.x_label, loc="right")
        _notes(axes, data)
        return _svg(figure, name, title)


def _notes(axes, data: Heat) -> None:
    for number, head in enumerate(data.note_heads):
        offset = 28 + 36 * number
        for row, word in [(-0.45, head), *((row + 0.52, notes[number]) for row, notes in enumerate(data.notes))]:
            axes.annotate(
                *(word, (1, row)),
                xycoords=("axes fraction", "data"),
                xytext=(offset, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                color=MUTED if row < 0 else INK,
                fontsize=8,
                annotation_clip=False,
            )


def level(count: float, whole: float) -> int:
    """Return the step of a heat map's colour: 0 for none, LEVELS for all."""
    if not count or not whole:
        return 0
    return max(1, min(LEVELS, -int(-LEVELS * count // whole)))


def strength(step: int) -> float:
    """Return how strong the colour of a step is, 0 to 1."""
    return STRENGTHS[step]


def _joined(data: Heat):
    """Return columns, counts and wholes with neighbours added up where there are more than a page can show."""
    width = -(-len(data.columns) // MOST_COLUMNS)
    if width == 1:
        return data.columns, data.counts, data.wholes
    starts = range(0, len(data.columns), width)
    counts = tuple(tuple(sum(values[start : start + width]) for start in starts) for values in data.counts)
    wholes = tuple(sum(data.wholes[start : start + width]) for start in starts)
    return tuple(data.columns[start] for start in starts), counts, wholes


def _ticks(number: int) -> list[int]:
    """Return which of so many columns get a label."""
    if number <= NUMBERED_CELLS:
        return list(range(number))
    step = next(step for step in (2, 5, 10, 20, 25, 50) if number / step <= 10 or step == 50)
    return [0, *range(step - 1, number, step)]


def outline(boxes: list[tuple[float, float, float, float]]) -> Outline:
    """Return boxes (left, bottom, right, top) as one path."""
    vertices, codes = [], []
    for x0, y0, x1, y1 in boxes:
        vertices += [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
        codes += [Outline.MOVETO, Outline.LINETO, Outline.LINETO, Outline.LINETO, Outline.CLOSEPOLY]
    return Outline(vertices, codes)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _figure(height: float):
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.04)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _svg(figure, name: str, title: str) -> str:
    """Return the figure as an SVG element for a page: no header, own ids, CSS variables, the page's font."""
    target = io.StringIO()
    figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = target.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<defs>\s*</defs>", "", text, flags=re.S)
    text = re.sub(
        r"<[^>]*>", lambda match: _tag(match[0], name), text
    )  # only in tags: a label may look like one of these
    box = re.search(r'viewBox="[^"]*"', text)[0]
    head = f'<svg {box} role="img" aria-label="{_attribute(title)}" class="chart" xmlns="http://www.w3.org/2000/svg"'
    text = re.sub(r"^<svg[^>]*>", f'{head} xmlns:xlink="http://www.w3.org/1999/xlink">', text)
    return re.sub(r"\s*\n\s*", "\n", text)


def _tag(tag: str, name: str) -> str:
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag)
    tag = re.sub(r' transform="rotate\(-0 [^"]*"', "", tag)
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    return re.sub("#000[0-9a-f]{3}", lambda match: f"var({VARIABLES[match[0]]})", tag)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
