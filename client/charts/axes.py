"""Axes and axes elements shared by the charts."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.figure import Figure

from fedn_partial.client.charts.style import DOCUMENT_WIDTH, MUTED, PAGE_WIDTH, REFERENCE, SMALL_FONT_SIZE


def page_axes(height: float):
    """Return a transparent figure for a page, with a height of `height` inches, and its axes."""
    figure = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.04)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def document_figure(height: float) -> Figure:
    """Return a figure for a document, with a height of `height` inches."""
    return Figure(figsize=(DOCUMENT_WIDTH, height), layout="constrained")


def label_axes(axes, unit: str, x_label: str) -> None:
    """Write the unit above the y axis and the label at the end of the x axis; draw horizontal grid lines."""
    axes.set_title(unit)
    axes.set_xlabel(x_label, loc="right")
    axes.grid(axis="y")


def whole_ticks(low: float, high: float) -> list[int]:
    """Return about ten integer ticks from `low` to `high`; 1, the first round, is always included."""
    step = next((step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500) if (high - low) / step <= 11), int(high / 5))
    multiples = [number for number in range(step, int(high) + 1, step) if number >= low]
    return [1, *multiples] if low <= 1 < step and step > 2 else multiples


def shade_rounds(axes, band: tuple[float, float, str], points: Iterable[tuple[float, float | None]], colour) -> None:
    """Shade a range of x.

    Parameters
    ----------
    band : (first, last, label).
    points : points of the chart; the label is placed above or below them.
    """
    first, last, label = band
    axes.axvspan(first - 0.5, last + 0.5, color=colour, linewidth=0, zorder=0)
    inside = [y for x, y in points if first <= x <= last and y is not None]
    low, high = axes.get_ylim()
    below = bool(inside) and sum(inside) / len(inside) > (low + high) / 2
    axes.annotate(
        *(label, (first - 0.5, 0 if below else 1)),
        xycoords=("data", "axes fraction"),
        xytext=(3, 3 if below else -3),
        textcoords="offset points",
        va="bottom" if below else "top",
        color=MUTED,
        fontsize=SMALL_FONT_SIZE,
    )


def horizontal_rule(axes, height: float, label: str) -> None:
    """Draw a dotted horizontal line at `height`, labelled above its right end."""
    axes.axhline(height, **REFERENCE, zorder=1)
    axes.annotate(
        *(label, (1, height)),
        xycoords=("axes fraction", "data"),
        xytext=(-3, 3),
        ha="right",
        textcoords="offset points",
        color=MUTED,
        fontsize=SMALL_FONT_SIZE,
    )


def write_right(axes, text: str, point: tuple[float, float], coordinates, offset: float, **style) -> None:
    """Write text to the right of a point at a distance of `offset` points, without clipping at the axes."""
    axes.annotate(
        *(text, point),
        xycoords=coordinates,
        xytext=(offset, 0),
        textcoords="offset points",
        va="center",
        annotation_clip=False,
        **style,
    )
