"""Reading the folders of runs and profiles; what is refused, and in which words."""

import pytest
from reports.report_cases import LAYERS, ROWS
from reports.run_folders import write_run

from fedn_partial.client.records.load import load, load_run
from fedn_partial.client.report.page import write_report
from fedn_partial.errors import FednPartialError


@pytest.fixture
def run(tmp_path):
    return load_run(write_run(tmp_path / "run", ROWS, layers=LAYERS, data={"name": "digits", "clients": 3}))


def test_runs_of_one_name_are_called_by_their_folders(tmp_path):
    folders = [write_run(tmp_path / name, ROWS, layers=LAYERS) for name in ("first", "second")]
    runs, _ = load(folders)
    assert [run.label for run in runs] == ["first", "second"]
    twins = [write_run(tmp_path / parent / "x", []) for parent in ("p", "q")]
    assert len({run.label for run in load(twins)[0]}) == 2


DAMAGED = {
    "no session": ("session.json", None, "run is not the folder of a run or profile: .* give a folder written by"),
    "cut off": ("session.json", '{"name": "x", "sett', r"session\.json: not JSON"),
    "a list": ("session.json", "[]", r"session\.json: expected an object"),
    "of something else": ("session.json", '{"version": 1}', r"session\.json: not a session: 'name' or 'settings'"),
    "final": ("session.json", '{"name": "x", "settings": {}, "final": 3}', r"session\.json: 'final' must have keys"),
    "binary": ("rounds.jsonl", b"\xff\xfe\x00", r"rounds\.jsonl: not UTF-8 text"),
    "no JSON": ("rounds.jsonl", '{"round": 1}{\n', r"rounds\.jsonl, line 1: not JSON"),
    "no object": ("rounds.jsonl", "3\n", r"rounds\.jsonl, line 1: expected an object"),
    "no client": ("rounds.jsonl", '{"round": 1, "fedn_round": "1"}\n', r"line 1: column 'client' is missing"),
    "wrong type": (
        "rounds.jsonl",
        '{"round": 1, "fedn_round": "1", "client": "c", "layers": []}\n'
        '{"round": 1, "fedn_round": "1", "client": "c", "accuracy": "high"}\n',
        r"rounds\.jsonl, line 2: column 'accuracy' must be a number, found 'high'",
    ),
    "NaN": (
        "rounds.jsonl",
        '{"round": 1, "fedn_round": "1", "client": "c", "loss": NaN}\n',
        r"line 1: column 'loss' must be a number, found 'nan'",
    ),
    "a number that is none": (
        "rounds.jsonl",
        '{"round": 1, "fedn_round": "1", "client": "c", "upload_bytes": 1' + "0" * 400 + "}\n",
        r"line 1: column 'upload_bytes' must be a number, found '1000",
    ),
    "too deep": ("rounds.jsonl", "[" * 100_000 + "\n", r"rounds\.jsonl, line 1: not JSON"),
    "layers": (
        "rounds.jsonl",
        '{"round": 1, "fedn_round": "1", "client": "c", "layers": [1]}\n',
        r"line 1: column 'layers' must be a list of names, found '\[1\]'",
    ),
    "profile": ("profile.json", '{"kind": "profile"}', r"profile\.json: not a profile: .*'cells' is missing"),
    "cell": (
        "profile.json",
        '{"kind": "profile", "name": "p", "cells": [{"flavour": "x", "layers": "4"}]}',
        r"profile\.json: cell 1: column 'layers' must be a number, found '4'",
    ),
    "elsewhere": (
        "profile.json",
        '{"kind": "profile", "name": "p", "cells": [{"flavour": "x", "layers": 4, "run": "../y"}]}',
        r"profile\.json: cell 1: 'run' must be the name of a folder",
    ),
}


@pytest.mark.parametrize(("file", "content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_or_foreign_folder_is_refused_by_file(tmp_path, file, content, message):
    folder = write_run(tmp_path / "run", [])
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FednPartialError, match=message):
        write_report([folder], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_folder_given_twice_is_refused(tmp_path, run):
    with pytest.raises(FednPartialError, match="is given twice"):
        write_report([run.path, run.path / ".." / "run"], tmp_path / "report.html")
