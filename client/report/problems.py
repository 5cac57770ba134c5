"""Problems in runs and profiles: refused and skipped updates, missing answers, failed rounds."""

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
MAX_GAPS = 1000  # rounds without an answer in the table, as a damaged round number could imply any number of them
MAX_NAMES = 4  # clients named in a line of the page


def problems_table(runs: list[Run], profiles: list[Profile]) -> pd.DataFrame:
    """Return one row per client and round with a problem: the kind of the problem, and the reason."""
    problems = [problem for profile in profiles for problem in _profile_problems(profile)]
    # The client of a profile does not use the data settings of the case.
    cells = [cell.run for profile in profiles for cell in profile.cells if cell.run]
    for run, data in [*((run, run.data or {}) for run in runs), *((run, {}) for run in cells)]:
        problems += [(run.label, *problem) for problem in _run_problems(run, data)]
    return listing(problems, COLUMNS)


def _profile_problems(profile: Profile) -> Iterator[tuple]:
    for cell in profile.cells:
        if cell.killed:
            yield f"{cell.flavour}, {cell.layers} layers", None, "its client", "killed", cell.killed
    for flavour, layers in profile.missing:
        yield f"{flavour}, {layers} layers", None, "its client", "not run", "the profile ended earlier"
    for flavour, reason in profile.refused.items():
        yield profile.label, None, flavour, "not run", reason


def _run_problems(run: Run, data: dict) -> Iterator[tuple]:
    """Yield round, client, kind and reason of each problem; `data` has the keys of a case's section `data`."""
    all_rounds = rounds(run)
    first_seen: dict[str, int] = {}
    for round_ in all_rounds:
        for row in round_.rows:
            first_seen.setdefault(row.client, round_.number)
    for round_ in all_rounds:
        for row in round_.rows:
            for kind, reason in _row_problems(row):
                yield round_.number, row.client, kind, reason
        for client in _missing(run, round_, first_seen, data):
            yield round_.number, client, "no answer", "no answer in this round"
    for number in _gaps([round_.number for round_ in all_rounds]):
        yield number, "all clients", "no answer", "no answer from any client in this round"
    for number, text in run.notes:
        yield number, "the server", "note", text
    expected = data.get("clients")
    all_requested = isinstance(expected, int) and _sample_size(run, expected) is None
    if all_rounds and all_requested and expected > len(first_seen):
        silent = f"{expected - len(first_seen)} of the {expected} clients"
        yield None, silent, "no answer", "no answer in any round"


def _row_problems(row: Row) -> Iterator[tuple[str, str]]:
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
    """Return the clients without an answer in a round that answered in an earlier round.

    If the session samples clients, return a text with their number, as rows do not identify the sampled clients.
    """
    expected = data.get("clients")
    sampled = _sample_size(run, expected if isinstance(expected, int) else len(first_seen))
    if sampled is not None:
        missing = sampled - len(round_.rows)
        return [f"{missing} of the {sampled} clients sampled"] if missing > 0 else []
    earlier = {client for client, number in first_seen.items() if number < round_.number}
    return sorted(earlier - {row.client for row in round_.rows}, key=natural)


def _sample_size(run: Run, clients: int) -> int | None:
    """Return the number of clients that a session samples for each round, or None if all clients train."""
    sampled = run.setting("session", "clients_per_round")
    return sampled if isinstance(sampled, int) and sampled < clients else None


def _gaps(numbers: list[int]) -> list[int]:
    """Return the missing numbers between the first and the last round, at most `MAX_GAPS`."""
    present = set(numbers)
    gaps = (number for number in range(min(present, default=1), max(present, default=0)) if number not in present)
    return list(itertools.islice(gaps, MAX_GAPS))


def problem_lines(problems: pd.DataFrame) -> list[dict]:
    """Return the problems grouped by run, kind and reason, most frequent first, with their clients and rounds."""
    patterns = problems["why"].str.replace(r"[\d.,]+", "0", regex=True)  # reasons may differ in their figures only
    lines = [
        {
            "run": run,
            "kind": kind,
            "clients": _client_list(list(group["client"].unique())),
            "why": group["why"].iloc[-1],
            "rounds": spans(group["round"].dropna()) or NOT_KNOWN,
            "times": len(group),
        }
        for (run, kind, _), group in problems.groupby(["run", "kind", patterns], sort=False)
    ]
    return sorted(lines, key=lambda line: -line["times"])


def _client_list(clients: list[str]) -> str:
    more = len(clients) - MAX_NAMES
    return listed(clients[:MAX_NAMES] + ([f"{more} more"] if more > 0 else []))


def spans(numbers: Iterable[int]) -> str:
    """Return numbers as ranges, such as "1, 3-5"."""
    groups: list[list[int]] = []
    for number in sorted(set(numbers)):
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(f"{group[0]}" if len(group) == 1 else f"{group[0]}-{group[-1]}" for group in groups)
