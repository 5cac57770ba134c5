"""Colours, line styles and sizes of all charts."""

from __future__ import annotations

PAGE_WIDTH = 4.2  # inches, 403 CSS pixels: the width of a phone, so that text remains readable
DOCUMENT_WIDTH = 7.0  # inches, 672 CSS pixels: the width of a text column
FONT_SIZE = 9  # points, 12 CSS pixels
SMALL_FONT_SIZE = 8
CELL_FONT_SIZE = 7.5  # of values in heat map cells


def _variables(series: tuple[str, ...], phases: tuple[str, ...], **colours: str) -> dict[str, str]:
    """Return {CSS variable: colour} for named colours, series (--s0, --s1, ...) and phases (--p0, --p1, ...)."""
    numbered = {f"s{number}": colour for number, colour in enumerate(series)}
    numbered |= {f"p{number}": colour for number, colour in enumerate(phases)}
    return {f"--{name}": colour for name, colour in (colours | numbered).items()}


# Colours of a page by colour scheme
LIGHT = _variables(
    paper="#ffffff",
    ink="#1b2025",
    muted="#59636e",
    line="#d8dde2",
    band="#f2f4f6",
    cell="#eceff2",
    heat="#0a5c9e",
    link="#0a5c9e",
    warn="#9a3412",
    series=("#0067a5", "#c24a06", "#00795a", "#a23f7c", "#8a6200", "#3d7fb5", "#5c6670", "#6f4fa3"),
    phases=("#5f6d7b", "#7a6a2c", "#b45309", "#0067a5", "#7b4a8e", "#d8dde2"),
)
DARK = _variables(
    paper="#13171a",
    ink="#e4e8eb",
    muted="#9aa5af",
    line="#353c43",
    band="#1c2125",
    cell="#23292e",
    heat="#62b5f2",
    link="#7cc0f5",
    warn="#f0a06a",
    series=("#5ab5ef", "#f28b4b", "#3cc79c", "#e48dc1", "#ddb13f", "#a5d4f5", "#b8c0c8", "#b99ce4"),
    phases=("#9fb0c0", "#cbb86a", "#f0a060", "#5ab5ef", "#cba1dd", "#3a424a"),
)
PRINT = LIGHT | {
    "--ink": "#000000",
    "--muted": "#444444",
    "--line": "#cccccc",
    "--link": "#000000",
    "--warn": "#000000",
}

# Placeholders for CSS variables, which matplotlib does not support; they are replaced in the SVG.
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
REFERENCE = {"color": MUTED, "linewidth": 1, "linestyle": (0, (1.5, 2))}  # style of reference lines
SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedn-partial",  # makes files reproducible
    "font.size": FONT_SIZE,
    "font.family": "DejaVu Sans",  # included in matplotlib; wider than most fonts, so that replacements fit
    "text.parse_math": False,  # names may contain a $
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


def colour(style: int) -> str:
    """Return the colour of a style number."""
    return COLOURS[f"--s{style % 8}"]


def marker(style: int) -> str:
    """Return the marker of a style number."""
    return MARKERS[style % 8]


def dash(style: int) -> int:
    """Return the index in `DASHES` of a style number; styles with equal colour and marker, as 0 and 8, differ in it."""
    return (style + style // 8) % 4


def line(style: int) -> dict:
    """Return the matplotlib arguments of a line with this style number."""
    return {"color": colour(style), "linestyle": DASHES[dash(style)]}
