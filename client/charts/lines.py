"""Line charts of a page."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fedn_partial.client.charts import axes as parts
from fedn_partial.client.charts import style
from fedn_partial.client.charts.svg import page_element

FEW_POINTS = 40  # largest number of points at which every point has a marker
HEIGHT = 2.5  # inches


@dataclass(frozen=True)
class Series:
    """One line of a chart, with points sorted by x; unknown values of y are None.

    Attributes
    ----------
    style : number of the colour, marker and dash; the same for a run in all charts.
    crosses : x of failed rounds or runs.
    low, high : ends of the error bars.
    reference : whether the line is a reference, drawn dotted and without markers.
    """

    style: int
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    crosses: tuple[float, ...] = ()
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    reference: bool = False


@dataclass(frozen=True)
class LineAxes:
    """The axes of a line chart.

    Attributes
    ----------
    unit : title of the y axis.
    x_label : label of the x axis.
    zero : whether the y axis starts at 0.
    top : upper bound of the y axis limit, or None.
    ticks : ticks of the x axis.
    band : shaded range of x as (first, last, label), or None.
    """

    unit: str
    x_label: str = "round"
    zero: bool = False
    top: float | None = None
    ticks: tuple[int, ...] = ()
    band: tuple[float, float, str] | None = None


def line_chart(name: str, title: str, series: list[Series], layout: LineAxes) -> str | None:
    """Return a line chart as SVG, or None if all values are unknown.

    Parameters
    ----------
    name : prefix of the ids in the SVG.
    title : text alternative of the chart.
    """
    drawn = [item for item in series if any(value is not None for value in item.y) or item.crosses]
    if not any(value is not None for item in drawn for value in item.y):
        return None
    compared = [item for item in drawn if not item.reference]
    with matplotlib.rc_context(style.SETTINGS):
        figure, axes = parts.page_axes(HEIGHT)
        for position, item in enumerate(drawn):
            if item.reference:
                axes.plot(item.x, _with_nan(item.y), **style.REFERENCE)
            else:
                _draw(axes, item, position - (len(drawn) - 1) / 2, only_line=len(compared) == 1)
        _set_limits(axes, layout)
        for item in drawn:
            floor = [axes.get_ylim()[0]] * len(item.crosses)
            axes.plot(item.crosses, floor, "x", color=style.colour(item.style), markersize=6, clip_on=False, zorder=4)
        if layout.band:
            points = [point for item in drawn for point in zip(item.x, item.y, strict=True)]
            parts.shade_rounds(axes, layout.band, points, style.BAND)
        _finish(axes, layout)
        if len(compared) == 1:
            _write_last_value(axes, compared[0])
        return page_element(figure, name, title)


def _with_nan(values: tuple[float | None, ...]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _draw(axes, series: Series, offset: float, only_line: bool) -> None:
    """Draw one series; `offset`, its index relative to the middle series, keeps error bars from overlapping."""
    few = len(series.x) <= FEW_POINTS
    shift = 0.14 * offset if series.low else 0
    x = [value + shift for value in series.x]
    axes.plot(
        *(x, _with_nan(series.y)),
        color=style.colour(series.style),
        linestyle="-" if only_line else style.DASHES[style.dash(series.style)],
        marker=style.marker(series.style) if few or not only_line else None,
        markevery=1 if few else max(1, len(x) // 8),
        markeredgecolor=style.PAPER,
        markeredgewidth=0.6,
        clip_on=False,
        zorder=3,
    )
    for position, low, high in zip(x, series.low, series.high, strict=False):
        if low is not None:
            axes.plot([position, position], [low, high], color=style.colour(series.style), linewidth=0.8)


def _set_limits(axes, layout: LineAxes) -> None:
    if layout.zero:
        axes.set_ylim(bottom=0)
    if layout.top is not None:
        axes.set_ylim(top=min(layout.top, axes.get_ylim()[1]))


def _finish(axes, layout: LineAxes) -> None:
    parts.label_axes(axes, layout.unit, layout.x_label)
    axes.yaxis.set_major_locator(MaxNLocator(5, min_n_ticks=3))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.set_xticks(parts.whole_ticks(*axes.get_xlim()))
    if layout.ticks:
        axes.set_xticks(layout.ticks)
        axes.set_xlim(min(layout.ticks) - 0.7, max(layout.ticks) + 0.7)


def _write_last_value(axes, series: Series) -> None:
    points = [(x, y) for x, y in zip(series.x, series.y, strict=True) if y is not None]
    if len(points) > 1:
        value = points[-1][1]
        text = f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
        parts.write_right(axes, text, points[-1], "data", 6, color=style.INK)
