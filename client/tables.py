"""Text tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

WIDTH = 1000  # characters; wide enough to prevent wrapping, so that the output can be parsed


def text_table(headings: Sequence[str], rows: Iterable[Sequence[str]], left: int = 0) -> str:
    """Return a text table whose first `left` columns are aligned to the left, the others to the right."""
    import io

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, heading in enumerate(headings):
        table.add_column(Text(heading), justify="left" if number < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(file=io.StringIO(), width=WIDTH)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
