"""What went wrong in runs and profiles: refused and skipped updates, missing answers, failed rounds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import pandas as pd

from fedn_partial.client.records.load import Profile, Run
from fedn_partial.client.records.outcome import Outcome
from fedn_partial.client.records.run_folder import Row
from fedn_partial.client.report.rounds import ReportRound, natural, rounds
from fedn_partial.client.report.tables import listing
from fedn_partial.client.report.wording import NOT_KNOWN, listed

COLUMNS = ("run", "round", "client", "kind", "why")
MOST_GAPS = 1000  # rounds without an answer that are listed: a damaged round number must not fill the disk
MOST_NAMES = 4  # clients that a line of the page names


def problems_table(runs: list[Run], profiles: list[Profile]) -> pd.DataFrame:
    """Return one row for each client and round in which something went wrong: the kind of problem, and why."""
    problems = [problem for profile in profiles for problem in _profile_problems(profile)]
    # The data settings of a case do not hold for the client of a profile, which has its own data.
    cells = [cell.run for profile in profiles for cell in profile.cells if cell.run]
    for run, data in [*((run, run.data or {}) for run in runs), *((run, {}) for run in cells)]:
        problems += [(run.label, *problem) for problem in _run_problems(run, data)]
    return listing(problems, COLUMNS)


def _profile_problems(profile: Profile) -> Iterator[tuple]:
    for cell in profile.cells:
        if cell.killed:
            yield f"{cell.flavour}, {cell.layers} layers", None, "its client", "killed", cell.killed
    for flavour, layers in profile.missing:
        yield f"{flavour}, {layers} layers", None, "its client", "not tried", "the profile ended before"
    for flavour, why in profile.refused.items():
        yield profile.label, None, flavour, "not tried", why


def _run_problems(run: Run, data: dict) -> Iterator[tuple]:
    """Yield round, client, kind and reason of each problem; `data` has the keys of a case's section `data`."""
    all_rounds = rounds(run)
    first_seen: dict[str, int] = {}
    for round_ in all_rounds:
        for row in round_.rows:
            first_seen.setdefault(row.client, round_.number)
    for round_ in all_rounds:
        for row in round_.rows:
            for kind, why in _complaints(row):
                yield round_.number, row.client, kind, why
        for client in _missing(run, round_, first_seen, data):
            yield round_.number, client, "no answer", "no answer from it in this round"
    for number in _gaps([round_.number for round_ in all_rounds]):
        yield number, "all clients", "no answer", "no answer from any client in this round"
    for number, text in run.notes:
        yield number, "the server", "noted", text
    expected = data.get("clients")
    all_asked = isinstance(expected, int) and _drawn(run, expected) is None
    if all_rounds and all_asked and expected > len(first_seen):
        silent = f"{expected - len(first_seen)} of the {expected} clients"
        yield None, silent, "no answer", "no answer from it in any round"


def _complaints(row: Row) -> Iterator[tuple[str, str]]:
    if row.outcome is Outcome.REFUSED:
        yield "refused", row.reason or "no reason given"
    if row.outcome is Outcome.SKIPPED:
        yield "skipped", row.reason or "no reason given"
    if row.outcome is Outcome.LATE:
        yield "skipped", f"late, {row.reason}"
    if row.outcome is Outcome.ROUND_FAILED:
        yield "round failed", "the global model did not change"
    if row.limited:
        yield "fewer layers", row.limited


def _missing(run: Run, round_: ReportRound, first_seen: dict[str, int], data: dict) -> list[str]:
    """Return the clients without an answer in a round: those that had answered before.

    Where the session draws clients, rows do not tell which ones: then how many of them.
    """
    expected = data.get("clients")
    drawn = _drawn(run, expected if isinstance(expected, int) else len(first_seen))
    if drawn is not None:
        left = drawn - len(round_.rows)
        return [f"{left} of the {drawn} clients drawn"] if left > 0 else []
    earlier = {client for client, number in first_seen.items() if number < round_.number}
    return sorted(earlier - {row.client for row in round_.rows}, key=natural)


def _drawn(run: Run, clients: int) -> int | None:
    """Return how many of its `clients` a session draws for each round, or None if it asks all."""
    drawn = run.setting("session", "clients_per_round")
    return drawn if isinstance(drawn, int) and drawn < clients else None


def _gaps(numbers: list[int]) -> list[int]:
    """Return the first rounds that are missing between others."""
    seen = set(numbers)
    gaps = (number for number in range(min(seen, default=1), max(seen, default=0)) if number not in seen)
    return list(itertools.islice(gaps, MOST_GAPS))


def problem_lines(problems: pd.DataFrame) -> list[dict]:
    """Return the problems with equal ones joined, the most frequent first: clients, rounds, and the latest reason."""
    alike = problems["why"].str.replace(r"[\d.,]+", "0", regex=True)  # a reason's figures change from round to round
    lines = [
        {
            "run": run,
            "kind": kind,
            "clients": _named(list(group["client"].unique())),
            "why": group["why"].iloc[-1],
            "rounds": spans(group["round"].dropna()) or NOT_KNOWN,
            "times": len(group),
        }
        for (run, kind, _), group in problems.groupby(["run", "kind", alike], sort=False)
    ]
    return sorted(lines, key=lambda line: -line["times"])


def _named(clients: list[str]) -> str:
    more = len(clients) - MOST_NAMES
    return listed(clients[:MOST_NAMES] + ([f"{more} more"] if more > 0 else []))


def spans(numbers: Iterable[int]) -> str:
    """Return numbers as spans: "1, 3-5"."""
    groups: list[list[int]] = []
    for number in sorted(set(numbers)):
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(f"{group[0]}" if len(group) == 1 else f"{group[0]}-{group[-1]}" for group in groups)
