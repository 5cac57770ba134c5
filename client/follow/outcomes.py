"""What became of an update, by the reports of the server functions: each round's settings report of the round before.

A report has the keys round, merged, skipped, late and notes, see
``fedn_partial.seed_model.server_functions.ServerFunctions.end_round``; one that was too large has the round only.
"""

from __future__ import annotations


def outcome(client_id: str, trained_in: int | None, reports: dict[int, dict]) -> str | None:
    """Return the outcome of the update of the client with FEDn's id `client_id`, or None as long as nobody said.

    Parameters
    ----------
    trained_in : number of the round that it was trained in, None while FEDn has not said. reports : {round: report}.
    """
    if trained_in is None:
        return None
    report = reports.get(trained_in, {})
    if client_id in report.get("merged", ()):
        return "merged"
    if client_id in report.get("skipped", {}):
        return f"skipped: {report['skipped'][client_id]}"
    for number, later in sorted(reports.items()):
        if later.get("late", {}).get(client_id) == trained_in:
            return f"skipped: late, it came in round {number}"
    if not {"merged", "skipped"} <= report.keys():
        return None
    if report.get("notes"):  # such as a hooks process that was restarted: its reports do not hold every update
        return "skipped: not merged, see the notes on this round"
    return "skipped: late, after the round was over"
