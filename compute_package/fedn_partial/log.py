"""Lines about what goes on. Standard library only: the thin entry points use it, too."""

from __future__ import annotations

import sys


def log(line: str) -> None:
    """Write one line to standard error, where FEDn's own log lines go."""
    print(f"[fedn-partial] {line}", file=sys.stderr, flush=True)
