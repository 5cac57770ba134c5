"""The outcome of an update by the reports of the server functions: a round's settings report on the round before.

A report has the keys round, merged, skipped, late and notes, see ``fedn_partial.exchange.server``, or only the round if
it was too large.
"""

from __future__ import annotations

from fedn_partial.client.records.outcome import Outcome


def outcome(client_id: str, trained_in: int | None, reports: dict[int, dict]) -> tuple[Outcome, str | None] | None:
    """Return the outcome of a client's update and its reason, or None while no report has it.

    Parameters
    ----------
    client_id : FEDn's id of the client.
    trained_in : number of the round that the update was trained in, None if it is not known yet.
    reports : {round: report}.
    """
    if trained_in is None:
        return None
    report = reports.get(trained_in, {})
    if client_id in report.get("merged", ()):
        return Outcome.MERGED, None
    if client_id in report.get("skipped", {}):
        return Outcome.SKIPPED, report["skipped"][client_id]
    for number, later in sorted(reports.items()):
        if later.get("late", {}).get(client_id) == trained_in:
            return Outcome.LATE, f"it came in round {number}"
    if not {"merged", "skipped"} <= report.keys():
        return None
    if report.get("notes"):  # such as a restarted hooks process: its reports do not hold every update
        return Outcome.SKIPPED, "not merged, see the notes on this round"
    return Outcome.LATE, "after the round was over"
