"""Horizontal bars of a page, made of pieces."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib

from fedn_partial.client.charts import style
from fedn_partial.client.charts.axes import page_axes
from fedn_partial.client.charts.svg import page_element

LONGEST_LABEL = 44  # characters


@dataclass(frozen=True)
class Bar:
    """A bar of pieces, one after the other; a piece is None if it is not known."""

    label: str
    pieces: tuple[float | None, ...]


def bar_chart(name: str, title: str, bars: list[Bar], pieces: tuple[str, ...], unit: str) -> str | None:
    """Return horizontal bars as SVG, each below its label and with its sum at the end, or None if nothing is known.

    Parameters
    ----------
    name : of the chart, for its ids. title : what a screen reader says of it.
    pieces : names of the pieces, written in those that are long enough; the last is the rest, in grey.
    """
    bars = [bar for bar in bars if any(bar.pieces)]
    if not bars:
        return None
    longest = max(sum(filter(None, bar.pieces)) for bar in bars)
    with matplotlib.rc_context({**style.SETTINGS, "axes.spines.bottom": False}):
        figure, axes = page_axes(0.45 + 0.46 * len(bars))
        for row, bar in enumerate(bars):
            _draw(axes, row, bar, pieces, unit, longest)
        axes.set_ylim(len(bars) - 0.6, -0.75)
        axes.set_xlim(0, longest * 1.16)
        axes.set_xticks([])
        axes.set_yticks([])
        return page_element(figure, name, title)


def _draw(axes, row: int, bar: Bar, names: tuple[str, ...], unit: str, longest: float) -> None:
    left = 0.0
    axes.text(0, row - 0.32, shortened(bar.label, LONGEST_LABEL), va="bottom", color=style.INK)
    for number, piece in enumerate(bar.pieces):
        if not piece:
            continue
        colour = style.COLOURS[f"--p{number}"]
        axes.barh(row, piece, 0.5, left, color=colour, edgecolor=style.PAPER, linewidth=0.8)
        if piece > longest * (0.022 * len(names[number]) + 0.03):
            shade = style.INK if number == len(names) - 1 else style.PAPER
            position = {"ha": "center", "va": "center"}
            axes.text(left + piece / 2, row, names[number], color=shade, fontsize=style.SMALL_FONT_SIZE, **position)
        left += piece
    axes.text(left + longest * 0.012, row, f"{left:.1f} {unit}", va="center", color=style.INK)


def shortened(text: str, most: int) -> str:
    """Return at most so many characters of a text, with an ellipsis if some are left out."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
