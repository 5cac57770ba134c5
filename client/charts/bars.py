"""Stacked horizontal bar charts of a page."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib

from fedn_partial.client.charts import style
from fedn_partial.client.charts.axes import page_axes
from fedn_partial.client.charts.svg import page_element

MAX_LABEL = 44  # characters


@dataclass(frozen=True)
class Bar:
    """A stacked bar; the length of a segment is None if it is unknown."""

    label: str
    segments: tuple[float | None, ...]


def bar_chart(name: str, title: str, bars: list[Bar], segments: tuple[str, ...], unit: str) -> str | None:
    """Return a stacked bar chart as SVG, or None if all values are unknown. The sum is written at the end of each bar.

    Parameters
    ----------
    name : prefix of the ids in the SVG.
    title : text alternative of the chart.
    segments : names of the segments, written into segments that are long enough; the last one is drawn in grey.
    """
    bars = [bar for bar in bars if any(bar.segments)]
    if not bars:
        return None
    longest = max(sum(filter(None, bar.segments)) for bar in bars)
    with matplotlib.rc_context({**style.SETTINGS, "axes.spines.bottom": False}):
        figure, axes = page_axes(0.45 + 0.46 * len(bars))
        for row, bar in enumerate(bars):
            _draw(axes, row, bar, segments, unit, longest)
        axes.set_ylim(len(bars) - 0.6, -0.75)
        axes.set_xlim(0, longest * 1.16)
        axes.set_xticks([])
        axes.set_yticks([])
        return page_element(figure, name, title)


def _draw(axes, row: int, bar: Bar, names: tuple[str, ...], unit: str, longest: float) -> None:
    left = 0.0
    axes.text(0, row - 0.32, shortened(bar.label, MAX_LABEL), va="bottom", color=style.INK)
    for number, length in enumerate(bar.segments):
        if not length:
            continue
        colour = style.COLOURS[f"--p{number}"]
        axes.barh(row, length, 0.5, left, color=colour, edgecolor=style.PAPER, linewidth=0.8)
        if length > longest * (0.022 * len(names[number]) + 0.03):
            shade = style.INK if number == len(names) - 1 else style.PAPER
            position = {"ha": "center", "va": "center"}
            axes.text(left + length / 2, row, names[number], color=shade, fontsize=style.SMALL_FONT_SIZE, **position)
        left += length
    axes.text(left + longest * 0.012, row, f"{left:.1f} {unit}", va="center", color=style.INK)


def shortened(text: str, length: int) -> str:
    """Return `text` truncated to `length` characters, with an ellipsis at the end if it is longer."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
