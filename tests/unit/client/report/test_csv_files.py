"""The CSV files beside a report."""

import csv
from pathlib import Path

import pytest
from reports.report_cases import LAYERS, ROWS
from reports.run_folders import write_run

from fedn_partial.client.report import csv_files
from fedn_partial.client.report.page import write_report
from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import WriteError


def test_figures_of_an_earlier_report_do_not_stay_beside_a_new_page(tmp_path, run):
    write_report([run.path], tmp_path / "report.html")
    (tmp_path / "report_data" / "mine.csv").write_text("a user's own")
    write_report([write_run(tmp_path / "empty", [], final={})], tmp_path / "report.html")
    assert sorted(path.name for path in (tmp_path / "report_data").iterdir()) == ["files.txt", "mine.csv", "runs.csv"]


def test_what_is_nobodys_report_is_not_overwritten(tmp_path, run):
    (tmp_path / "mine_data").mkdir()
    for name in ("runs.csv", "table5.csv"):
        (tmp_path / "mine_data" / name).write_text("a user's own")
    with pytest.raises(
        FednPartialError, match=r"mine_data/runs\.csv was not written by an earlier report; choose another name"
    ):
        write_report([run.path], tmp_path / "mine.html")
    assert {path.read_text() for path in (tmp_path / "mine_data").iterdir()} == {"a user's own"}
    for output in (tmp_path, Path(".")):
        with pytest.raises(FednPartialError, match="is a folder; give a file name for the report"):
            write_report([run.path], output)


def test_no_spreadsheet_takes_a_devices_name_for_a_formula(tmp_path):
    rows = [{"round": 1, "fedn_round": "1", "client": '=HYPERLINK("http://x","y")', "layers": ["a"]}]
    write_report([write_run(tmp_path / "run", rows)], tmp_path / "report.html")
    with (tmp_path / "report_data" / "clients.csv").open() as file:
        assert next(csv.DictReader(file))["client"] == '\'=HYPERLINK("http://x","y")'


def test_a_report_on_a_full_disk_leaves_no_folder(tmp_path, monkeypatch):
    def full(path, text):
        raise WriteError(f"{path}: no space left on device")

    monkeypatch.setattr(csv_files, "write_text", full)
    run = write_run(tmp_path / "run", ROWS, layers=LAYERS)
    with pytest.raises(WriteError):
        write_report([run], tmp_path / "report.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
