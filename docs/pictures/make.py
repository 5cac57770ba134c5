"""Create the README's screenshots of a report: NAME.png, NAME-dark.png and NAME-phone.png, beside this file.

    PYTHONPATH=tests/harness python docs/pictures/make.py NAME FOLDER [FOLDER ...]

FOLDER is an argument of `fedn-partial report`. Requires Chromium. Called by 'make pictures'.
"""

import sys
import tempfile
from pathlib import Path

import browser

from fedn_partial.client.report.page import write_report

HERE = Path(__file__).parent
DESK, PHONE = 1040, 360  # CSS pixels
SECTIONS = ("learning", "layers")  # sections of a run to show below the header; of a profile the table is shown
ABOVE = 56  # CSS pixels between two sections


def main(name: str, folders: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_report([Path(folder) for folder in folders], page)
        sections = browser.look(page, DESK)["sections"]
        parts = [(0, sections["header"][1])]
        parts += [(sections[key][0] - ABOVE, sections[key][1]) for key in SECTIONS if key in sections]
        parts += [(sections[key][0] - ABOVE, sections[key][2]) for key in ("machines",) if key in sections]
        for suffix, dark in (("", False), ("-dark", True)):
            browser.picture(page, HERE / f"{name}{suffix}.png", DESK, dark, parts, scale=1.5)
        browser.picture(page, HERE / f"{name}-phone.png", PHONE, True, [(0, 1400)])
    for path in sorted(HERE.glob(f"{name}*.png")):
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
