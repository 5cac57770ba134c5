"""Sources of Python modules that tests write."""

import textwrap


def line_of(source: str, text: str) -> int:
    """Return the number of the first line of `source`, as the fixture `custom` writes it, that has `text`."""
    lines = textwrap.dedent(source).lstrip("\n").splitlines()
    return 1 + next(number for number, line in enumerate(lines) if text in line)
