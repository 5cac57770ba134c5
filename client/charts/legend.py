"""Legend symbols of a page as SVG elements."""

from __future__ import annotations

from markupsafe import Markup

from fedn_partial.client.charts import style
from fedn_partial.client.charts.heat_maps import LEVELS, STRENGTHS, level

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
DASHES = ("none", "6 2.5", "2.5 2", "9 2.5 2.5 2.5")  # of style.DASHES

Legend = list[tuple[int | str, str]]  # key of a symbol, see `swatch`, and its label


def heat_legend(whole: int) -> Legend:
    """Return the legend of a heat map: counts if there are at most `LEVELS`, else percentages."""
    if whole <= LEVELS:
        return [(f"h{level(count, whole)}", str(count)) for count in range(int(whole) + 1)]
    return [("h0", "none"), *((f"h{step}", f"to {100 * step // LEVELS} %") for step in range(1, LEVELS + 1))]


def swatch(key: int | str) -> Markup:
    """Return the symbol of a series (style number), of a phase ("p0") or of a heat map step ("h0")."""
    if isinstance(key, int):
        dashes = DASHES[style.dash(key)]
        line = f'<path d="M0 6h28" stroke="var(--s{key % 8})" stroke-dasharray="{dashes}" stroke-width="2"/>'
        mark = f'<g fill="var(--s{key % 8})">{MARKERS[style.marker(key)]}</g>'
        return _small_svg(28, line + mark)
    if key.startswith("p"):
        fill = f'fill="var(--{key})"'
    else:
        step = int(key[1:])
        fill = f'fill="var(--heat)" fill-opacity="{STRENGTHS[step]}"' if step else 'fill="var(--cell)"'
    return _small_svg(12, f'<rect width="12" height="12" rx="1" {fill}/>')


def _small_svg(width: int, content: str) -> Markup:
    box = f'width="{width}" height="12" viewBox="0 0 {width} 12"'
    return Markup(f'<svg class="swatch" {box} aria-hidden="true">{content}</svg>')
