"""What happened to a client's update in a round."""

from __future__ import annotations

import enum


class Outcome(str, enum.Enum):
    """Outcome of an update; the reason is a text beside it.

    SENT : the server functions have not reported on it, as for most updates of a session's last round.
    SKIPPED : the server functions did not merge it. LATE : nor this one, which arrived after its round was over.
    REFUSED : the client did not train. ROUND_FAILED : the round made no global model.
    """

    SENT = "sent"
    MERGED = "merged"
    SKIPPED = "skipped"
    LATE = "late"
    REFUSED = "refused"
    ROUND_FAILED = "round failed"


def describe(outcome: Outcome, reason: str | None) -> str:
    """Return the outcome as people read it, such as "skipped: late, it arrived in round 3"."""
    words = "skipped: late" if outcome is Outcome.LATE else outcome.value
    separator = ", " if outcome is Outcome.LATE else ": "
    return f"{words}{separator}{reason}" if reason else words


def read_outcome(text: str, reason: str | None) -> tuple[Outcome, str | None]:
    """Return the outcome and its reason in a row of rounds.jsonl; in earlier versions one text held both.

    Raises
    ------
    ValueError : `text` is no outcome.
    """
    if reason is None and text.startswith("skipped: late, "):
        return Outcome.LATE, text.removeprefix("skipped: late, ")
    if reason is None and ": " in text:
        text, _, reason = text.partition(": ")
    return Outcome(text), reason
