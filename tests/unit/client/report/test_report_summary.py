"""The key figures of a run, each counted by hand here."""

import pytest
from reports.report_cases import LAYERS, UPLOADED, client, summary_of, tables_of
from reports.run_folders import write_run

from fedn_partial.client.records.load import load_run
from fedn_partial.client.report.page import write_report
from fedn_partial.client.report.results import layers_trained
from fedn_partial.client.report.tables import records


def test_what_a_run_comes_to(run):
    one = summary_of(run)
    assert (one.layers, one.trained, one.full_training) == (3, (1, 2), False)
    assert (one.rounds, one.warmup_rounds, one.failed_rounds, one.clients) == (4, 1, 1, 2)
    assert (one.accuracy, one.accuracy_round) == (0.8, 5)
    assert (one.upload_bytes, one.full_upload_bytes) == (UPLOADED, 6 * 240)  # the refused one had no update to compare
    assert one.upload_share == pytest.approx(UPLOADED / 1440)
    assert one.partial_upload_share == pytest.approx((50 + 210 + 45 + 30) / (4 * 240))
    assert (one.partial_seconds, one.full_seconds) == (4.5, 7)
    assert (one.partial_memory_mb, one.full_memory_mb) == (150, None)
    assert one.download_bytes is None and one.problem is None


def test_a_run_that_does_not_know_its_model_is_not_taken_for_full_training(tmp_path):
    rows = [client(number, "c1", ["a", "b"]) for number in (1, 2)]
    one = summary_of(load_run(write_run(tmp_path / "old", rows)))
    assert one.layers is None and not one.full_training and layers_trained(one) == "2"
    rows.append(client(3, "c1", ["a", "b", "c"], warmup=True))  # who trained every weight tells how many there are
    one = summary_of(load_run(write_run(tmp_path / "warm", rows)))
    assert one.layers == 3 and layers_trained(one) == "2 of 3"


def test_what_clients_download_only_to_validate_is_received_too(tmp_path):
    rows = [client(number, "c1", ["a"], download_bytes=2000) for number in (1, 2)]
    final = {"problem": None, "download_bytes": 4700, "validation_bytes": 700, "validations": {"2": 700, "9": "x"}}
    path = write_run(tmp_path / "run", rows, layers=LAYERS, final=final)
    run = load_run(path)
    assert summary_of(run).download_bytes == 4700
    assert [row["download_bytes"] for row in records(tables_of(run)["rounds"])] == [2000, 2700]
    write_report([path], tmp_path / "report.html")
    assert "700\N{NO-BREAK SPACE}B of it to clients that only validated" in (tmp_path / "report.html").read_text()
