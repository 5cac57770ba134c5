"""Write the tables of a report as CSV files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import write_text

LISTING = "files.txt"  # names of the CSV files that a report wrote to the folder
NAMES = tuple(
    f"{name}.csv"
    for name in (
        *("runs", "rounds", "costs", "layers", "layers_by_client", "staleness", "clients", "problems"),
        *("flavours", "table3", "table4", "table5"),
    )
)


def write_csv(folder: Path, tables: dict[str, pd.DataFrame]) -> list[Path]:
    """Write the tables that have rows, remove the CSV files of an earlier report, and return the paths.

    Raises
    ------
    FednPartialError : a file of the same name was not written by an earlier report.
    """
    listing = folder / LISTING
    earlier = listing.read_text(encoding="utf-8").split() if listing.exists() else []
    files = {f"{name}.csv": table for name, table in tables.items() if len(table)}
    if foreign := [name for name in files if name not in earlier and (folder / name).exists()]:
        raise FednPartialError(
            f"{folder / foreign[0]} was not written by an earlier report; choose another name for the report"
        )
    folder.mkdir(exist_ok=True)
    for name in earlier:
        if name in NAMES:
            (folder / name).unlink(missing_ok=True)
    write_text(listing, "\n".join(files) + "\n")
    for name, table in files.items():
        cells = {column: pd.Series([_escape_formula(cell) for cell in table[column]], dtype=object) for column in table}
        write_text(folder / name, pd.DataFrame(cells).to_csv(index=False, lineterminator="\r\n"))
    return [folder / name for name in files]


def _escape_formula(cell):
    """Return a cell that spreadsheets do not evaluate as a formula, as names and reasons come from devices."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in tuple("=+-@\t\r") else cell
