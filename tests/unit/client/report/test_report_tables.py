"""The tables of a report, each value counted by hand here."""

import pytest
from reports.report_cases import LAYERS, client, tables_of
from reports.run_folders import write_run

from fedn_partial.client.records import run_folder
from fedn_partial.client.records.load import load_run
from fedn_partial.client.report.tables import memory_column, records


def test_rounds_weigh_accuracy_by_test_examples_and_know_what_came_into_the_model(run):
    first, second, third, fifth = records(tables_of(run)["rounds"])
    assert first["accuracy"] == pytest.approx((50 + 75) / 400) and second["accuracy"] == pytest.approx((75 + 150) / 400)
    assert [one["round"] for one in (first, second, third, fifth)] == [1, 2, 3, 5]
    assert [one["layers_trained"] for one in (first, second, third, fifth)] == [3, 3, 0, 1]
    assert [one["failed"] for one in (first, second, third, fifth)] == [False, False, True, False]
    assert (second["upload_bytes"], second["full_upload_bytes"]) == (260, 480)


def test_staleness_counts_rounds_since_an_update_with_the_layer_was_merged(run):
    tables = tables_of(run)
    ages = {name: [r["staleness"] for r in records(tables["layers"], layer=name)] for name in LAYERS}
    assert ages == {"a": [0, 0, 1, 3], "b": [0, 0, 1, 0], "c": [0, 0, 1, 3]}  # after rounds 1, 2, 3, 5
    assert [r["clients"] for r in records(tables["layers"], layer="a")] == [2, 1, 0, 0]
    table = {record["layer"]: record for record in records(tables["staleness"])}
    assert [(table[name]["staleness"], table[name]["longest_staleness"]) for name in "abc"] == [(3, 3), (0, 1), (3, 3)]
    assert [table[name]["rounds_trained"] for name in "abc"] == [2, 3, 2]
    assert [table[name]["updates"] for name in "abc"] == [3, 4, 3]
    assert {(r["layer"], r["client"]): r["rounds"] for r in records(tables["layers_by_client"])} == {
        **{("a", "c1"): 2, ("b", "c1"): 2, ("c", "c1"): 1},
        **{("a", "c2"): 1, ("b", "c2"): 2, ("c", "c2"): 2},
    }


def test_a_layer_that_nobody_ever_trained_is_as_stale_as_the_run_is_old(tmp_path):
    rows = [client(number, "c1", ["a"]) for number in (1, 2, 3)]
    run = load_run(write_run(tmp_path / "run", rows, layers=LAYERS))
    assert [r["staleness"] for r in records(tables_of(run)["layers"], layer="b")] == [1, 2, 3]


def test_costs_by_number_of_layers_are_means_with_their_ends(tmp_path):
    phases = {"load": 1, "import": 0, "trace": 2, "train": 3, "encode": 0.5, "brew": 9}
    columns = {"phases": phases, "round_seconds": 10}
    rows = [
        client(1, "c1", ["a"], cpu_percent=50, memory_peak_mb=100, upload_bytes=48, **columns),
        client(1, "c2", ["b"], cpu_percent=100, memory_peak_mb=300, upload_bytes=96, **columns),
        client(2, "c1", ["a", "b"], cpu_percent=None, memory_peak_mb=None),
    ]
    run = load_run(write_run(tmp_path / "run", rows, layers=LAYERS))
    one, two = records(tables_of(run)["costs"])
    assert (one["layers"], one["updates"], two["layers"], two["updates"]) == (1, 2, 2, 1)
    assert (one["cpu_percent"], one["cpu_percent_lowest"], one["cpu_percent_highest"]) == (75, 50, 100)
    assert (one["memory_mb"], one["memory_mb_lowest"], one["memory_mb_highest"]) == (200, 100, 300)
    assert (one["trace_seconds"], one["train_seconds"]) == (2, 3)
    assert one["rest_seconds"] == pytest.approx(10 - 6.5)  # a phase that a device invents is not one of ours
    assert two["cpu_percent"] is two["memory_mb"] is two["rest_seconds"] is two["train_seconds"] is None


def test_clients_are_listed_in_their_natural_order_with_the_sensors_that_devices_have(tmp_path):
    rows = [client(1, f"c{number}", ["a"], upload_bytes=10) for number in (10, 9, 1)]
    rows[1] |= {"temperature_c": 40.0, "power_mw": 5000.0}
    rows.append({**rows[1], "round": 2, "fedn_round": "2", "temperature_c": 50.0, "upload_bytes": 15})
    table = records(tables_of(load_run(write_run(tmp_path / "run", rows)))["clients"])
    assert [record["client"] for record in table] == ["c1", "c9", "c10"]
    assert (table[1]["rounds"], table[1]["upload_bytes"]) == (2, 25)
    if hasattr(run_folder.Row, "temperature_c"):  # a column that this version knows
        assert (table[1]["temperature_c"], table[0]["temperature_c"]) == (45, None)


def test_memory_is_compared_by_the_column_that_all_runs_have(tmp_path):
    new = load_run(write_run(tmp_path / "new", [client(1, "c", ["a"], memory_peak_mb=5, rss_peak_mb=4)]))
    old = load_run(write_run(tmp_path / "old", [client(1, "c", ["a"], rss_peak_mb=3)]))
    empty = load_run(write_run(tmp_path / "empty", []))
    assert memory_column([new, empty]) == "memory_peak_mb"
    assert memory_column([new, old]) == "rss_peak_mb"
