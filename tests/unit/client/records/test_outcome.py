"""Outcomes of updates in rounds.jsonl, as this version writes them and as earlier versions did."""

import json

import pytest
from reports.report_cases import LAYERS, ROWS
from reports.run_folders import write_run

from fedn_partial.client.records.load import load_run
from fedn_partial.client.records.outcome import Outcome, describe
from fedn_partial.client.records.run_folder import Row, RunFolder
from fedn_partial.errors import FednPartialError
from fedn_partial.settings.case import Case
from fedn_partial.settings.schema import parse


@pytest.mark.parametrize(
    ("columns", "outcome", "reason", "text"),
    [
        ({"outcome": "merged"}, Outcome.MERGED, None, "merged"),
        ({"outcome": "round failed"}, Outcome.ROUND_FAILED, None, "round failed"),
        ({"outcome": "refused: disk: full"}, Outcome.REFUSED, "disk: full", "refused: disk: full"),
        ({"outcome": "refused", "reason": "disk: full"}, Outcome.REFUSED, "disk: full", "refused: disk: full"),
        ({"outcome": "skipped: late, it came in round 2"}, Outcome.LATE, "it came in round 2", None),
        ({"outcome": "late", "reason": "x"}, Outcome.LATE, "x", "skipped: late, x"),
        ({}, Outcome.SENT, None, "sent"),
    ],
)
def test_rows_of_all_versions_are_read(tmp_path, columns, outcome, reason, text):
    folder = write_run(tmp_path / "run", [], layers=LAYERS)
    row = {"fedn_round": "1", "client": "a", **columns}
    (folder / "rounds.jsonl").write_text(json.dumps(row) + "\n")
    (read,) = load_run(folder).rows
    assert (read.outcome, read.reason) == (outcome, reason)
    assert read.outcome_text() == (text or columns["outcome"])


@pytest.mark.parametrize("outcome", ["marged", 3, None, "lost: somewhere"])
def test_an_unknown_outcome_is_refused_by_line_and_value(tmp_path, outcome):
    folder = write_run(tmp_path / "run", ROWS, layers=LAYERS)
    lines = (folder / "rounds.jsonl").read_text()
    row = {"fedn_round": "1", "client": "a", "outcome": outcome}
    (folder / "rounds.jsonl").write_text(lines + json.dumps(row) + "\n")
    number = len(lines.splitlines()) + 1
    with pytest.raises(
        FednPartialError, match=rf"rounds\.jsonl, line {number}: column 'outcome' must be one of sent, m"
    ):
        load_run(folder)


def test_what_is_written_is_read_again(tmp_path):
    case = parse(Case, {"name": "c", "model": {}, "selection": {}}, "test")
    folder = RunFolder(tmp_path / "run", case)
    rows = [
        Row(round=1, fedn_round="1", client=name, outcome=outcome, reason="why")
        for name, outcome in zip("abcdef", Outcome, strict=True)
    ]
    folder.write_rows(rows)
    assert list(load_run(folder.path).rows) == rows
    assert {describe(row.outcome, row.reason).split(":")[0] for row in rows} >= {"skipped", "refused"}
