"""Look up the outcome of an update in the reports of the server functions.

The settings of a round contain the report on the round before. A report has the keys round, merged, skipped, late and
notes (see ``fedn_partial.exchange.server``), or the round alone if it was too large.
"""

from __future__ import annotations

from fedn_partial.client.records.outcome import Outcome


def outcome(client_id: str, trained_in: int | None, reports: dict[int, dict]) -> tuple[Outcome, str | None] | None:
    """Return the outcome of a client's update and the reason, or None while no report contains it.

    Parameters
    ----------
    client_id : FEDn's id of the client.
    trained_in : number of the round in which the update was trained, or None while unknown.
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
            return Outcome.LATE, f"arrived in round {number}"
    if not {"merged", "skipped"} <= report.keys():
        return None
    if report.get("notes"):  # such as a restart of the hooks process, whose report is incomplete
        return Outcome.SKIPPED, "not merged, see the notes on this round"
    return Outcome.LATE, "arrived after the end of the round"
