"""Result of one check of ``fedn-partial doctor``."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARNING, PROBLEM, NOT_CHECKED = "ok", "warning", "problem", "n/a"


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes
    ----------
    name : what was checked.
    state : OK, WARNING, PROBLEM or NOT_CHECKED.
    text : the result, followed by what to do about it.
    """

    name: str
    state: str
    text: str
