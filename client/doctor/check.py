"""What a check of ``fedn-partial doctor`` finds."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARNING, PROBLEM, NOT_CHECKED = "ok", "warning", "problem", "n/a"


@dataclass(frozen=True)
class Check:
    """What was looked at (`name`), how it is (`state`, one of these four), and what it is or what to do (`text`)."""

    name: str
    state: str
    text: str
