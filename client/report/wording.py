"""Format numbers and lists for reports."""

from __future__ import annotations

from fedn_partial.client.follow.progress import size

NOT_KNOWN = "n/a"
SPACE = "\u00a0"  # no-break space, between a number and its unit


def percent(share: float | None, digits: int = 1) -> str:
    return NOT_KNOWN if share is None else f"{100 * share:.{digits}f}{SPACE}%"


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    return NOT_KNOWN if value is None else f"{value:,.{digits}f}{SPACE + unit if unit else ''}"


def amount(count: float | None) -> str:
    """Return a number of bytes with a suitable unit."""
    return NOT_KNOWN if count is None else size(count).replace(" ", SPACE)


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def listed(words: list[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def less(part: float | None, whole: float | None, unit: str = "") -> str | None:
    """Return "39 % less", "5 % more" or "as much", or None if a value is unknown."""
    if part is None or not whole:
        return None
    change = round(100 * (part / whole - 1))
    if change == -100 and part:
        return f"over 99{SPACE}% less {unit}".strip()
    if not change:
        return f"as much {unit}".strip()
    return f"{abs(change)}{SPACE}% {'less' if change < 0 else 'more'} {unit}".strip()
