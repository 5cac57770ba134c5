"""Logging to standard error. Standard library only, for the thin entry points."""

from __future__ import annotations

import sys


def log(line: str) -> None:
    """Write one line to standard error, as FEDn's own log does."""
    print(f"[fedn-partial] {line}", file=sys.stderr, flush=True)
