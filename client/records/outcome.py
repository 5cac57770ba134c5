"""The outcome of a client's update in a round."""

from __future__ import annotations

import enum


class Outcome(str, enum.Enum):
    """Outcome of an update. The reason is stored separately, as text.

    SENT : the server functions have not reported on the update, as for most updates of a session's last round.
    MERGED : the update is part of the new global model.
    SKIPPED : the server functions did not merge the update.
    LATE : the update arrived after the end of its round and was not merged.
    REFUSED : the client did not train.
    ROUND_FAILED : the round produced no global model.
    """

    SENT = "sent"
    MERGED = "merged"
    SKIPPED = "skipped"
    LATE = "late"
    REFUSED = "refused"
    ROUND_FAILED = "round failed"


def describe(outcome: Outcome, reason: str | None) -> str:
    """Return the outcome and its reason as text, such as "skipped: late, arrived in round 3"."""
    label = "skipped: late" if outcome is Outcome.LATE else outcome.value
    separator = ", " if outcome is Outcome.LATE else ": "
    return f"{label}{separator}{reason}" if reason else label


def read_outcome(text: str, reason: str | None) -> tuple[Outcome, str | None]:
    """Return the outcome and the reason of a row of rounds.jsonl; earlier versions wrote both as one text.

    Raises
    ------
    ValueError : `text` is not an outcome.
    """
    if reason is None and text.startswith("skipped: late, "):
        return Outcome.LATE, text.removeprefix("skipped: late, ")
    if reason is None and ": " in text:
        text, _, reason = text.partition(": ")
    return Outcome(text), reason
