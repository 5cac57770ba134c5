"""Draw docs/pictures/pipeline.svg, the pipeline of docs/ARCHITECTURE.md:  python docs/pictures/pipeline.py"""

from pathlib import Path

from matplotlib import pyplot
from matplotlib.patches import FancyBboxPatch

STYLE = {"svg.hashsalt": "pipeline", "svg.fonttype": "none"}  # reproducible files, selectable text
OUTPUT = Path(__file__).with_suffix(".svg")
CUSTOM, FIXED = "#cfe3f7", "#f0f0f0"  # colours of customisable and other parts
WIDTH, HEIGHT, STEP = 2.3, 0.9, 3.0  # of a box, and distance of columns
# Box: column, row, title, location of its code, whether it is customisable
BOXES = {
    "global": (0, 0, "global model", "FEDn's store", False),
    "model": (1, 1, "model", "models/", True),
    "data": (2, 1, "shard", "client/data/", True),
    "select": (1, 0, "selector", "submodel/selection.py", True),
    "limits": (2, 0, "device limits", "device/", False),
    "train": (3, 0, "local training", "training/", False),
    "codec": (4, 0, "codec", "exchange/codecs/", True),
    "check": (4, -1.6, "checks, decoding", "exchange/checks.py", False),
    "merge": (2.5, -1.6, "merge rule", "exchange/merge_rules/", True),
    "new": (0, -1.6, "new global model", "exchange/server.py", False),
}
ARROWS = [
    ("global", "select", ""),
    ("select", "limits", ""),
    ("limits", "train", ""),
    ("train", "codec", ""),
    ("codec", "check", "update"),
    ("check", "merge", ""),
    ("merge", "new", ""),
    ("new", "global", "next round"),
    ("model", "select", ""),
    ("data", "train", ""),
]


def centre(name: str) -> tuple[float, float]:
    column, row = BOXES[name][:2]
    return STEP * column, 1.5 * row


def main() -> None:
    figure, axes = pyplot.subplots(figsize=(10.4, 4.4))
    for title, bottom, top, at in (
        ("client, in every round", -0.75, 2.2, 2.1),
        ("server functions, in FEDn's hooks", -3.35, -1.75, -2.95),
    ):
        axes.add_patch(pyplot.Rectangle((1.6, bottom), 11.8, top - bottom, fill=False, ls=":", ec="#888888"))
        axes.text(13.25, at, title, ha="right", va="top", fontsize=9, color="#555555")
    for name, (*_, title, code, custom) in BOXES.items():
        x, y = centre(name)
        corner = (x - WIDTH / 2, y - HEIGHT / 2)
        axes.add_patch(
            FancyBboxPatch(corner, WIDTH, HEIGHT, "round,pad=0,rounding_size=0.1", fc=CUSTOM if custom else FIXED)
        )
        axes.text(x, y + 0.14, title, ha="center", va="center", fontsize=9.5)
        axes.text(x, y - 0.2, code, ha="center", va="center", fontsize=6, color="#555555")
    for start, end, label in ARROWS:
        (x0, y0), (x1, y1) = centre(start), centre(end)
        across = abs(x1 - x0) > abs(y1 - y0)
        sign = 1 if (x1 - x0 if across else y1 - y0) > 0 else -1
        dx, dy = (sign * WIDTH / 2, 0) if across else (0, sign * HEIGHT / 2)
        axes.annotate("", (x1 - dx, y1 - dy), (x0 + dx, y0 + dy), arrowprops={"arrowstyle": "->", "color": "#333333"})
        if label:
            axes.text(
                (x0 + x1) / 2 + (0 if across else 0.1), (y0 + y1) / 2 + (0.08 if across else 0), label, fontsize=7.5
            )
    axes.text(-WIDTH / 2, 1.9, "blue: customisable", fontsize=8, va="center")
    axes.set(xlim=(-1.3, 13.5), ylim=(-3.45, 2.3), aspect="equal")
    axes.axis("off")
    with pyplot.rc_context(STYLE):
        figure.savefig(OUTPUT, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
