"""Heat maps of a page, and functions to draw heat map cells in other charts."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from fedn_partial.client.charts import style
from fedn_partial.client.charts.axes import page_axes
from fedn_partial.client.charts.bars import shortened
from fedn_partial.client.charts.svg import page_element

NUMBERED_CELLS = 12  # largest number of columns at which values are written into the cells
GAP_COLUMNS = 40  # largest number of columns with gaps between cells
MAX_COLUMNS = 120  # neighbouring columns are summed above this number
LEVELS = 5  # steps of the colour scale
STRENGTHS = (0.0, 0.2, 0.34, 0.5, 0.8, 1.0)  # opacity by step, chosen for sufficient contrast of the text

Box = tuple[float, float, float, float]  # left, bottom, right, top


@dataclass(frozen=True)
class HeatMap:
    """Data of a heat map.

    Attributes
    ----------
    counts : values by row and column.
    wholes : largest possible value of each column.
    notes, note_heads : texts to the right of each row, and their headings.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[float, ...], ...]
    wholes: tuple[float, ...]
    x_label: str
    note_heads: tuple[str, ...] = ()
    notes: tuple[tuple[str, ...], ...] = ()


def heat_map(name: str, title: str, data: HeatMap) -> str | None:
    """Return a heat map as SVG, or None if it has no cells.

    Parameters
    ----------
    name : prefix of the ids in the SVG.
    title : text alternative of the chart.
    """
    if not data.rows or not data.columns:
        return None
    columns, counts, wholes = joined(data)
    numbered = len(columns) <= NUMBERED_CELLS and columns == data.columns
    gap = 0.06 if len(columns) <= GAP_COLUMNS else 0.0
    with matplotlib.rc_context({**style.SETTINGS, "axes.spines.bottom": False}):
        figure, axes = page_axes(0.62 + 0.21 * len(data.rows))
        boxes: dict[int, list[Box]] = {}
        for row, values in enumerate(counts):
            steps = [level(value, whole) for value, whole in zip(values, wholes, strict=True)]
            for step, box in _row_boxes(row, steps, gap):
                boxes.setdefault(step, []).append(box)
            for column, step in enumerate(steps):
                if numbered and values[column]:
                    write_count(axes, (column + 0.5, row + 0.52), f"{values[column]:.0f}", step)
        draw_boxes(axes, boxes)
        axes.set_xlim(0, len(columns))
        axes.set_ylim(len(data.rows), 0)
        axes.set_yticks([row + 0.5 for row in range(len(data.rows))], [shortened(row, 14) for row in data.rows])
        _label_columns(axes, columns)
        axes.set_xlabel(data.x_label, loc="right")
        _write_notes(axes, data)
        return page_element(figure, name, title)


def level(count: float, whole: float) -> int:
    """Return the step of the colour scale: 0 for a count of 0, `LEVELS` for `whole`."""
    if not count or not whole:
        return 0
    return max(1, min(LEVELS, -int(-LEVELS * count // whole)))


def write_count(axes, centre: tuple[float, float], text: str, step: int) -> None:
    """Write the value of a cell in a colour that contrasts with its step."""
    shade = style.PAPER if STRENGTHS[step] > 0.6 else style.INK
    axes.text(*centre, text, ha="center", va="center", color=shade, fontsize=style.CELL_FONT_SIZE)


def draw_boxes(axes, boxes: dict[int, list[Box]]) -> None:
    """Draw cells by step of the colour scale. Cells of a step form one path to reduce the file size."""
    for step, group in boxes.items():
        fill = {"facecolor": style.HEAT, "alpha": STRENGTHS[step]} if step else {"facecolor": style.CELL}
        axes.add_patch(PathPatch(_outline(group), linewidth=0, zorder=0, **fill))


def _outline(boxes: list[Box]) -> Outline:
    vertices, codes = [], []
    for x0, y0, x1, y1 in boxes:
        vertices += [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
        codes += [Outline.MOVETO, Outline.LINETO, Outline.LINETO, Outline.LINETO, Outline.CLOSEPOLY]
    return Outline(vertices, codes)


def _row_boxes(row: int, steps: list[int], gap: float) -> list[tuple[int, Box]]:
    """Return (step, box) for the cells of a row; without a gap, equal neighbours are merged."""
    boxes, start = [], 0
    for column, step in enumerate(steps):
        if gap or column + 1 == len(steps) or steps[column + 1] != step:
            boxes.append((step, (start + gap, row + 0.06, column + 1 - gap, row + 0.94)))
            start = column + 1
    return boxes


def joined(data: HeatMap) -> tuple[tuple[str, ...], tuple[tuple[float, ...], ...], tuple[float, ...]]:
    """Return columns, counts and wholes, with neighbouring columns summed so that at most `MAX_COLUMNS` remain."""
    width = -(-len(data.columns) // MAX_COLUMNS)
    if width == 1:
        return data.columns, data.counts, data.wholes
    starts = range(0, len(data.columns), width)
    counts = tuple(tuple(sum(values[start : start + width]) for start in starts) for values in data.counts)
    wholes = tuple(sum(data.wholes[start : start + width]) for start in starts)
    return tuple(data.columns[start] for start in starts), counts, wholes


def _label_columns(axes, columns: tuple[str, ...]) -> None:
    labelled = _labelled(len(columns))
    axes.set_xticks([column + 0.5 for column in labelled], [shortened(columns[column], 12) for column in labelled])
    if any(len(columns[column]) > 4 for column in labelled) and len(labelled) > 3:
        axes.tick_params(axis="x", labelrotation=90)
    axes.tick_params(axis="x", length=0)


def _labelled(number: int) -> list[int]:
    """Return the indices of the columns to label, of `number` columns."""
    if number <= NUMBERED_CELLS:
        return list(range(number))
    step = next(step for step in (2, 5, 10, 20, 25, 50) if number / step <= 10 or step == 50)
    return [0, *range(step - 1, number, step)]


def _write_notes(axes, data: HeatMap) -> None:
    for number, head in enumerate(data.note_heads):
        lines = [(-0.45, head), *((row + 0.52, notes[number]) for row, notes in enumerate(data.notes))]
        for row, text in lines:
            axes.annotate(
                *(text, (1, row)),
                xycoords=("axes fraction", "data"),
                xytext=(28 + 36 * number, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                color=style.MUTED if row < 0 else style.INK,
                fontsize=style.SMALL_FONT_SIZE,
                annotation_clip=False,
            )
