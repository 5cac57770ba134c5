"""The report's figures, each counted by hand here; what it takes, and what it refuses and in which words."""

import csv
import importlib.metadata
import json
import re
import subprocess
import sys
import types
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from paths import ROOT
from run_folders import made_up_rows, write_profile, write_run

from fedn_partial.client.commands.cli import main
from fedn_partial.client.records import run_folder as run_files
from fedn_partial.client.records.load import load, load_run
from fedn_partial.client.report import captions, charts, paper, statistics
from fedn_partial.client.report.page import write_report
from fedn_partial.errors import FednPartialError
from fedn_partial.settings.case import load_case

CONFIGS = ROOT / "configs"
LAYERS = {"a": 10, "b": 20, "c": 30}  # 60 weights: a full update is 240 bytes


def client(round, name, layers, outcome="merged", **columns):
    trained = sum(LAYERS[layer] for layer in layers)
    known = {"trained_params": trained, "total_params": 60} if layers else {}
    return {"round": round, "client": name, "layers": layers, "outcome": outcome, **known, **columns}


# Round 4 brings nothing from anybody, round 5 nothing from c2; round 3 fails.
ROWS = [
    client(1, "c1", ["a", "b", "c"], warmup=True, upload_bytes=250, accuracy=0.5, test_examples=100, round_seconds=8),
    client(1, "c2", ["a", "b", "c"], warmup=True, upload_bytes=250, accuracy=0.25, test_examples=300, round_seconds=6),
    client(2, "c1", ["a"], upload_bytes=50, accuracy=0.75, test_examples=100, round_seconds=4, memory_peak_mb=100),
    client(2, "c2", ["b", "c"], upload_bytes=210, accuracy=0.5, test_examples=300, round_seconds=5, memory_peak_mb=200),
    client(3, "c1", ["a"], "skipped: too late", upload_bytes=45),
    client(3, "c2", [], "refused: memory 400.0 MB predicted", upload_bytes=9),
    client(5, "c1", ["b"], "sent", upload_bytes=30, accuracy=0.8, test_examples=100, limited="1 of the 2 layers"),
]
UPLOADED = 250 + 250 + 50 + 210 + 45 + 9 + 30


@pytest.fixture
def run(tmp_path):
    return load_run(write_run(tmp_path / "run", ROWS, layers=LAYERS, data={"name": "digits", "clients": 3}))


def test_what_a_run_comes_to(run):
    one = statistics.summary(run, "memory_peak_mb")
    assert (one.layers, one.trained, one.full_training) == (3, (1, 2), False)
    assert (one.rounds, one.warmup_rounds, one.failed_rounds, one.clients) == (4, 1, 1, 2)
    assert (one.accuracy, one.accuracy_round) == (0.8, 5)
    assert (one.upload_bytes, one.full_upload_bytes) == (UPLOADED, 6 * 240)  # the refused one had no update to compare
    assert one.upload_share == pytest.approx(UPLOADED / 1440)
    assert one.partial_upload_share == pytest.approx((50 + 210 + 45 + 30) / (4 * 240))
    assert (one.partial_seconds, one.full_seconds) == (4.5, 7)
    assert (one.partial_memory_mb, one.full_memory_mb) == (150, None)
    assert one.download_bytes is None and one.problem is None


def test_rounds_weigh_accuracy_by_test_examples_and_know_what_came_into_the_model(run):
    first, second, third, fifth = statistics.rounds_table([run]).records()
    assert first["accuracy"] == pytest.approx((50 + 75) / 400) and second["accuracy"] == pytest.approx((75 + 150) / 400)
    assert [one["round"] for one in (first, second, third, fifth)] == [1, 2, 3, 5]
    assert [one["layers_trained"] for one in (first, second, third, fifth)] == [3, 3, 0, 1]
    assert [one["failed"] for one in (first, second, third, fifth)] == [False, False, True, False]
    assert (second["upload_bytes"], second["full_upload_bytes"]) == (260, 480)


def test_staleness_counts_rounds_since_an_update_with_the_layer_was_merged(run):
    layers = statistics.layers_table([run])
    ages = {name: [r["staleness"] for r in layers.records(layer=name)] for name in LAYERS}
    assert ages == {"a": [0, 0, 1, 3], "b": [0, 0, 1, 0], "c": [0, 0, 1, 3]}  # after rounds 1, 2, 3, 5
    assert [r["clients"] for r in layers.records(layer="a")] == [2, 1, 0, 0]
    table = {record["layer"]: record for record in statistics.staleness_table([run], layers).records()}
    assert [(table[name]["staleness"], table[name]["longest_staleness"]) for name in "abc"] == [(3, 3), (0, 1), (3, 3)]
    assert [table[name]["rounds_trained"] for name in "abc"] == [2, 3, 2]
    assert [table[name]["updates"] for name in "abc"] == [3, 4, 3]
    by_client = statistics.layers_by_client_table([run])
    assert {(r["layer"], r["client"]): r["rounds"] for r in by_client.records()} == {
        **{("a", "c1"): 2, ("b", "c1"): 2, ("c", "c1"): 1},
        **{("a", "c2"): 1, ("b", "c2"): 2, ("c", "c2"): 2},
    }


def test_a_layer_that_nobody_ever_trained_is_as_stale_as_the_run_is_old(tmp_path):
    rows = [client(number, "c1", ["a"]) for number in (1, 2, 3)]
    run = load_run(write_run(tmp_path / "run", rows, layers=LAYERS))
    assert [r["staleness"] for r in statistics.layers_table([run]).records(layer="b")] == [1, 2, 3]


def test_costs_by_number_of_layers_are_means_with_their_ends(tmp_path):
    phases = {"load": 1, "import": 0, "trace": 2, "train": 3, "encode": 0.5, "brew": 9}
    columns = {"phases": phases, "round_seconds": 10}
    rows = [
        client(1, "c1", ["a"], cpu_percent=50, memory_peak_mb=100, upload_bytes=48, **columns),
        client(1, "c2", ["b"], cpu_percent=100, memory_peak_mb=300, upload_bytes=96, **columns),
        client(2, "c1", ["a", "b"], cpu_percent=None, memory_peak_mb=None),
    ]
    run = load_run(write_run(tmp_path / "run", rows, layers=LAYERS))
    one, two = statistics.costs_table([run], "memory_peak_mb").records()
    assert (one["layers"], one["updates"], two["layers"], two["updates"]) == (1, 2, 2, 1)
    assert (one["cpu_percent"], one["cpu_percent_lowest"], one["cpu_percent_highest"]) == (75, 50, 100)
    assert (one["memory_mb"], one["memory_mb_lowest"], one["memory_mb_highest"]) == (200, 100, 300)
    assert (one["trace_seconds"], one["train_seconds"]) == (2, 3)
    assert one["rest_seconds"] == pytest.approx(10 - 6.5)  # a phase that a device invents is not one of ours
    assert two["cpu_percent"] is two["memory_mb"] is two["rest_seconds"] is two["train_seconds"] is None


def test_what_went_wrong_with_whom_and_when(run):
    told = {tuple(row[1:]) for row in statistics.problems_table([run], []).rows}
    assert told == {
        (3, "c1", "skipped", "too late"),
        (3, "c2", "refused", "memory 400.0 MB predicted"),
        (4, "all clients", "no answer", "nothing came from any client in this round"),
        (5, "c1", "fewer layers", "1 of the 2 layers"),
        (5, "c2", "no answer", "nothing came from it in this round"),
        (None, "1 of the 3 clients", "no answer", "nothing ever came from it"),
    }


def test_equal_problems_are_told_once(tmp_path):
    rows = [
        client(number, name, [], f"refused: memory {400 + number}.5 MB predicted")
        for number in (1, 2, 3, 5)
        for name in ("c1", "c2", "c3", "c4", "c5", "c6")
    ]
    run = load_run(write_run(tmp_path / "run", rows))
    refused, silent = captions.problem_lines(statistics.problems_table([run], []))
    assert refused["clients"] == "c1, c2, c3, c4 and 2 more" and refused["rounds"] == "1-3, 5"
    assert refused["why"] == "memory 405.5 MB predicted" and refused["times"] == 24
    assert silent["rounds"] == "4"


def test_clients_are_listed_in_their_natural_order_with_the_sensors_that_devices_have(tmp_path):
    rows = [client(1, f"c{number}", ["a"], upload_bytes=10) for number in (10, 9, 1)]
    rows[1] |= {"temperature_c": 40.0, "power_mw": 5000.0}
    rows.append({**rows[1], "round": 2, "fedn_round": "2", "temperature_c": 50.0, "upload_bytes": 15})
    table = statistics.clients_table([load_run(write_run(tmp_path / "run", rows))], "memory_peak_mb").records()
    assert [record["client"] for record in table] == ["c1", "c9", "c10"]
    assert (table[1]["rounds"], table[1]["upload_bytes"]) == (2, 25)
    if hasattr(run_files.Row, "temperature_c"):  # a column that this version knows
        assert (table[1]["temperature_c"], table[0]["temperature_c"]) == (45, None)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([(1, "7"), (2, "8"), (4, "10")], [1, 2, 4]),  # as the server functions count
        ([(1, "7"), (1, "8"), (2, "9")], [1, 2, 3]),  # these counted anew: FEDn's own, from 1
        ([(1, "7"), (None, "9")], [1, 3]),  # or did not count
        ([(None, "x"), (None, "y")], [1, 2]),  # of another origin
    ],
)
def test_rounds_are_numbered(tmp_path, numbers, expected):
    rows = [client(number, "c1", ["a"], fedn_round=fedn) for number, fedn in numbers]
    found = statistics.rounds(load_run(write_run(tmp_path / "run", rows)))
    assert [one.number for one in found] == expected


def test_a_run_that_does_not_know_its_model_is_not_taken_for_full_training(tmp_path):
    rows = [client(number, "c1", ["a", "b"]) for number in (1, 2)]
    one = statistics.summary(load_run(write_run(tmp_path / "old", rows)), "memory_peak_mb")
    assert one.layers is None and not one.full_training and captions.layers_trained(one) == "2"
    rows.append(client(3, "c1", ["a", "b", "c"], warmup=True))  # who trained every weight tells how many there are
    one = statistics.summary(load_run(write_run(tmp_path / "warm", rows)), "memory_peak_mb")
    assert one.layers == 3 and captions.layers_trained(one) == "2 of 3"


def test_layers_without_a_list_are_in_the_order_of_a_full_update_or_by_name(tmp_path):
    full = [client(1, "c1", ["c", "a", "b"]), client(2, "c1", ["b"])]
    assert statistics.layer_names(load_run(write_run(tmp_path / "full", full))) == ["c", "a", "b"]
    rows = [{"round": 1, "client": "c1", "layers": ["conv10", "dense"]}]
    rows.append({"round": 2, "client": "c1", "layers": ["conv9", "conv10"]})
    assert statistics.layer_names(load_run(write_run(tmp_path / "part", rows))) == ["conv9", "conv10", "dense"]


def test_memory_is_compared_by_the_column_that_all_runs_have(tmp_path):
    new = load_run(write_run(tmp_path / "new", [client(1, "c", ["a"], memory_peak_mb=5, rss_peak_mb=4)]))
    old = load_run(write_run(tmp_path / "old", [client(1, "c", ["a"], rss_peak_mb=3)]))
    empty = load_run(write_run(tmp_path / "empty", []))
    assert statistics.memory_column([new, empty]) == "memory_peak_mb"
    assert statistics.memory_column([new, old]) == "rss_peak_mb"


def test_spans():
    assert statistics.spans([3, 1, 4, 4, 9, 5]) == "1, 3-5, 9" and statistics.spans([]) == ""


# The result in a sentence


def full_run(folder, accuracy, seconds, memory, **settings):
    rows = [
        client(1, name, ["a", "b", "c"], upload_bytes=250, round_seconds=seconds, memory_peak_mb=memory)
        | {"accuracy": accuracy, "test_examples": 100}
        for name in ("c1", "c2")
    ]
    return write_run(folder, rows, name="full", layers=LAYERS, **settings)


def test_a_run_is_compared_with_full_training_of_the_same_model_and_data(tmp_path):
    data = {"data": {"name": "digits", "clients": 3}}
    part = write_run(tmp_path / "part", ROWS, name="part", layers=LAYERS, **data)
    same = full_run(tmp_path / "same", 0.9, 9.0, 300, **data)
    other = full_run(tmp_path / "other", 0.1, 9.0, 300, data={"name": "other", "clients": 3})
    (told,) = write_report([other, part, same], tmp_path / "report.html")["result"]
    less = round(100 * (1 - UPLOADED / 1440))
    assert told == (
        "part: Training 1 to 2 of 3 layers in each client and round, after 1 warm-up round of all layers, reached an "
        "accuracy of 80.0 % after 5 rounds, "
        f"where full training reached 90.0 % after 1 round; clients sent {less} % less than full updates take, and a "
        "round took "
        "each of them 50 % less time and 50 % less memory than one with all layers (4.5 ± 0.7 s in 2 updates of 1 "
        "round; 9.0 ± 0.0 s in 2 updates of 1 round with all layers)."
    )
    (alone,) = write_report([part], tmp_path / "alone.html")["result"]
    assert "(4.5 ± 0.7 s in 2 updates of 1 round; 7.0 ± 1.4 s in 2 updates of 1 round with all layers)" in alone
    assert "4.5 ± 0.7 s in 2 updates of 1 round; 7.0" in (tmp_path / "alone.html").read_text().replace(
        captions.SPACE, " "
    )
    assert "full training" not in alone and "36 % less time than one" in alone  # 4.5 of the warm-up's 7 s
    assert "no run of full training here to compare with" in (tmp_path / "alone.html").read_text()
    assert "no run of full training" not in (tmp_path / "report.html").read_text()


def test_a_session_that_ended_in_its_warm_up_is_not_called_full_training(tmp_path):
    final = {"problem": "interrupted"}
    path = write_run(tmp_path / "run", ROWS[:2], layers=LAYERS, final=final, selection={"selector": "random"})
    (told,) = write_report([path], tmp_path / "report.html")["result"]
    assert told == (
        "Only 1 warm-up round of all layers was run, and no partial one; "
        "the model has an accuracy of 31.2 % after 1 round."
    )
    page = (tmp_path / "report.html").read_text()
    assert "in partial rounds" not in page
    assert "Nothing: no answer" not in page and "is not whole: interrupted" in page


def test_a_warm_up_in_which_a_client_trained_fewer_layers_is_not_said_to_be_of_all(tmp_path):
    rows = [{**ROWS[0], "layers": ROWS[0]["layers"][:1]}, *ROWS[1:]]
    path = write_run(tmp_path / "run", rows, layers=LAYERS, selection={"selector": "random"})
    (told,) = write_report([path], tmp_path / "report.html")["result"]
    assert "after 1 warm-up round, reached" in told and "warm-up round of all" not in told


def test_a_part_that_is_not_nothing_is_not_100_percent_less():
    assert captions.less(6_800, 11_000_000).replace(captions.SPACE, " ") == "over 99 % less"
    assert captions.less(0, 100).replace(captions.SPACE, " ") == "100 % less"


def test_the_data_are_those_that_the_run_used(tmp_path):
    path = write_run(tmp_path / "run", ROWS, layers=LAYERS, data={"name": "digits", "clients": 3})
    session = json.loads((path / "session.json").read_text())
    used = {"name": "casa", "clients": 2, "partition": "natural"}
    (path / "session.json").write_text(json.dumps({**session, "data": used}))
    write_report([path], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "casa, partitioned across 2 clients (natural)" in page and "vgg16 on casa" in page
    assert "digits" not in page


def test_clients_that_the_case_has_and_the_data_have_not_are_not_missed(tmp_path):
    path = write_run(tmp_path / "run", ROWS[:2], layers=LAYERS, data={"name": "digits", "clients": 5})
    assert [row[2] for row in statistics.problems_table([load_run(path)], []).rows] == ["3 of the 5 clients"]
    session = json.loads((path / "session.json").read_text())
    (path / "session.json").write_text(json.dumps({**session, "data": {"name": "casa", "clients": 2}}))
    assert not statistics.problems_table([load_run(path)], []).rows


def test_one_measurement_has_no_spread():
    assert (
        captions.timing(statistics.Times(4.5, None, 1, 1)).replace(captions.SPACE, " ")
        == "4.5 s in 1 update of 1 round"
    )
    assert captions.timing(statistics.Times(None, None, 0, 0)) == "n/a"


def test_clients_that_were_not_drawn_are_not_missed(tmp_path):
    rows = [client(1, "c1", ["a"]), client(1, "c2", ["a"]), client(2, "c3", ["a"]), client(2, "c4", ["a"])]
    drawn = {"session": {"rounds": 3, "clients_per_round": 2}, "data": {"name": "digits", "clients": 5}}
    path = write_run(tmp_path / "run", rows, layers=LAYERS, **drawn)
    assert not statistics.problems_table([load_run(path)], []).rows
    write_report([path], tmp_path / "report.html")
    assert "Nothing: no answer is known to be missing, and every update" in (tmp_path / "report.html").read_text()
    path = write_run(tmp_path / "other", [*rows, client(3, "c1", ["a"])], layers=LAYERS, **drawn)
    (row,) = statistics.problems_table([load_run(path)], []).rows
    assert row[1:4] == (3, "1 of the 2 clients drawn", "no answer")


def test_full_training_in_which_a_client_refused_does_not_say_that_every_client_trained(tmp_path):
    rows = [client(1, "c1", ["a", "b", "c"], accuracy=0.5, test_examples=10), client(1, "c2", [], "refused: no memory")]
    path = write_run(tmp_path / "run", rows, layers=LAYERS, selection={"selector": "all"})
    (told,) = write_report([path], tmp_path / "report.html")["result"]
    assert told.startswith("Full training, all 3 layers in every update: an accuracy of 50.0 % after 1 round; ")


def test_a_profile_tells_of_its_own_clients_data_not_of_the_cases(tmp_path):
    data = {"name": "digits", "clients": 5}
    path = write_profile(tmp_path / "p", [{"flavour": "f", "layers": 3, "run": "f-3"}], data=data)
    write_run(path / "f-3", ROWS[:1], layers=LAYERS, data=data)
    content = json.loads((path / "profile.json").read_text())
    (path / "profile.json").write_text(json.dumps({**content, "data": "made up at random"}))
    _, (profile,) = load([path])
    assert not statistics.problems_table([], [profile]).rows
    facts = dict(captions.facts(profile))
    assert facts["Data"] == "made up at random" and "digits" not in captions.subtitle(profile)


def problems(path) -> set[tuple]:
    return {tuple(row[1:]) for row in statistics.problems_table([load_run(path)], []).rows}


def with_session(path: Path, **changes) -> Path:
    """Change keys of a run's session.json."""
    session = json.loads((path / "session.json").read_text())
    (path / "session.json").write_text(json.dumps({**session, **changes}))
    return path


def test_what_the_server_functions_note_on_a_round_went_wrong_too(tmp_path):
    path = write_run(tmp_path / "run", ROWS[:2], layers=LAYERS, data={"name": "digits", "clients": 2})
    with_session(path, notes=[{"round": 1, "text": "2 updates of clients not asked"}, "damaged", {"round": "x"}])
    assert problems(path) == {(1, "the server", "noted", "2 updates of clients not asked")}
    write_report([path], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Not everything went well" in page and "2 updates of clients not asked" in page


def test_what_clients_download_only_to_validate_is_received_too(tmp_path):
    rows = [client(number, "c1", ["a"], download_bytes=2000) for number in (1, 2)]
    final = {"problem": None, "download_bytes": 4700, "validation_bytes": 700, "validations": {"2": 700, "9": "x"}}
    path = write_run(tmp_path / "run", rows, layers=LAYERS, final=final)
    run = load_run(path)
    assert statistics.summary(run, "memory_peak_mb").download_bytes == 4700
    assert [row["download_bytes"] for row in statistics.rounds_table([run]).records()] == [2000, 2700]
    write_report([path], tmp_path / "report.html")
    assert "700\N{NO-BREAK SPACE}B of it came to clients that only validated" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("part", "whole", "told"),
    [(39, 100, "61 % less"), (104, 100, "4 % more"), (100.2, 100, "as much"), (None, 1, None), (1, 0, None)],
)
def test_savings_in_words(part, whole, told):
    said = captions.less(part, whole)
    assert (said and said.replace("\xa0", " ")) == told


# The paper


def test_the_papers_tables_agree_with_its_own_text():
    tables = paper.figures()
    for line in tables["table3"]["layers"].values():
        assert line["parameters_million"] * 4e6 / 2**20 == pytest.approx(line["sent_mib"], abs=0.2)
    four, fourteen = (tables["table4"]["ssc.small.highcpu"][layers] for layers in (4, 14))
    growth = {key: round(fourteen[key] - four[key], 2) for key in ("seconds", "cpu_percent", "ram_percent")}
    assert growth == {"seconds": 84.41, "cpu_percent": 8, "ram_percent": 12.14}  # section 5.2.6
    assert [layers for layers, cell in tables["table4"]["ssc.xsmall"].items() if cell == "-"] == [7, 10, 14]
    assert [layers for layers, cell in tables["table4"]["ssc.small"].items() if cell == "-"] == [14]
    nano = tables["table5"]["jetson-nano-2gb"]
    assert round(nano[10]["seconds"] - nano[4]["seconds"]) == 66 and nano[14] == "-"  # section 5.2.7
    assert all(list(cells) == [4, 7, 10, 14] for cells in [*tables["table4"].values(), nano])
    assert len(tables["table4"]) == 7


def vgg_rows(*sent):
    """One row for each (layers, bytes, weights), as of the paper's model."""
    return [
        {"round": number, "client": "c", "layers": [f"conv{n}" for n in range(layers)]}
        | {"upload_bytes": size, "trained_params": weights, "total_params": 14_736_714}
        for number, (layers, size, weights) in enumerate(sent, start=1)
    ]


def test_table_3_scales_the_mean_update_to_10_clients(tmp_path):
    rows = vgg_rows((4, 2**20, 1_000_000), (4, 3 * 2**20, 2_000_000), (14, 56 * 2**20, 14_736_714), (5, 7, 7))
    run = load_run(write_run(tmp_path / "run", rows, name="ours", model={"name": "vgg16", "width": 1.0}))
    printed, ours = paper.table3([run], [])
    assert (printed.mib[4], printed.weights[4], printed.share[14]) == (133.1, 34.88, 1)
    assert printed.share[7] == pytest.approx(259.1 / 561.6)
    assert ours.mib == {4: 20, 7: None, 10: None, 14: 560}
    assert (ours.weights[4], ours.weights[14]) == (15, pytest.approx(147.36714))
    assert ours.share[4] == pytest.approx(2 * 2**20 / (4 * 14_736_714))
    assert "compare the shares" not in captions.table3_remarks([printed, ours])[0]


def test_table_3_is_for_the_papers_model_only_and_says_what_differs(tmp_path):
    rows = vgg_rows((4, 2**20, 1_000_000))
    other = load_run(write_run(tmp_path / "other", rows, model={"name": "lstm_har"}))
    assert paper.table3([other], []) == []
    narrow = {"model": {"name": "vgg16", "width": 0.25}, "codec": "int8"}
    (remark,) = captions.table3_remarks(paper.table3([load_run(write_run(tmp_path / "narrow", rows, **narrow))], []))
    assert "0.25 of the paper's width" in remark and "int8" in remark and "compare the shares" in remark


def cell(flavour, layers, **columns):
    return {"flavour": flavour, "layers": layers, "cpus": 1, "memory_mib": 1024, "total_layers": 14, **columns}


CELLS = [
    cell("ssc.xsmall", 4, seconds=10.0, cpu_percent=98.0, ram_mb=500.0, ram_percent=46.6, run="ssc.xsmall-4"),
    cell("ssc.xsmall", 7, seconds=12.0, cpu_percent=97.0, ram_mb=600.0, ram_percent=55.9, run=None),
    cell("ssc.xsmall", 10, seconds=13.0, limited="9.0 of 10 layers: memory 900.0 MB predicted"),
    cell("ssc.xsmall", 14, killed="in round 1, after 3 of 20 steps"),
    cell("my-board", 4, seconds=20.0, rounds=2),
    cell("my-board", 14, seconds=25.0, rounds=1),
]
VGG16 = {"model": {"name": "vgg16"}, "training": {"batch_size": 32}}


def make_profile(folder, **settings):
    return write_profile(folder, CELLS, refused={"ssc.large": "has 4 processors, this machine has 2"}, **settings)


def test_table_4_puts_the_papers_cells_beside_ours(tmp_path):
    _, (profile,) = load([make_profile(tmp_path / "profile", **VGG16)])
    found = paper.costs(profile)
    assert found.table == 4 and found.columns == (4, 7, 10, 14)
    small, board, large = found.flavours
    assert small.pairs[4].ours.seconds == 10 and small.pairs[4].paper["seconds"] == 1119.49
    assert found.gained == [("ssc.xsmall", 7)]  # not 10, where it trained fewer layers, nor 14, where it was killed
    assert board.pairs[4].paper is None and board.pairs[7].ours is None
    assert large.refused.startswith("has 4") and large.pairs[14].paper["ram_mb"] == 1723
    rows = paper.costs_csv(4, [found]).records(flavour="ssc.xsmall", layers=7)
    assert [(r["source"], r["seconds"], r["killed"]) for r in rows] == [
        ("profile", 12, None),
        ("paper", None, "did not run"),
    ]


@pytest.mark.parametrize(
    ("width", "batch", "table"), [(1.0, 32, 4), (None, 8, 4), (0.5, 4, 5), (0.5, 32, None), (0.25, 4, None)]
)
def test_which_of_the_papers_tables_a_profile_repeats(tmp_path, width, batch, table):
    model = {"name": "vgg16"} | ({"width": width} if width else {})
    settings = {"model": model, "training": {"batch_size": batch}}
    _, (profile,) = load([make_profile(tmp_path / "profile", **settings)])
    assert paper.paper_table(profile) == table


def test_a_profile_on_a_page(tmp_path):
    folder = make_profile(tmp_path / "profile", **VGG16)
    sent = vgg_rows((4, 2**20, 10))
    sent[0]["outcome"] = "refused: the disk is full"
    write_run(folder / "ssc.xsmall-4", sent, name="profile", model={"name": "vgg16"})
    answer = write_report([folder], tmp_path / "report.html")
    assert answer["result"] == [
        "A client was to train 4, 7, 10 and 14 of 14 layers on 2 sizes of machine; 5 of 6 combinations ran, "
        "1 trained fewer layers than asked for, and 1 was ended for lack of memory; 1 of those that ran did not "
        "in the paper. Training 4 layers took 20 % less time than 14, on average, means of 1 to 2 rounds each."
    ]
    page = Text((tmp_path / "report.html").read_text())
    assert "ssc.xsmall, 14 layers: ended for lack of memory; in round 1, after 3 of 20 steps" in page.text
    assert "ssc.xsmall, 10 layers: trained fewer layers than asked for: 9.0 of 10 layers: memory 900.0" in page.text
    assert "ssc.large: not tried, has 4 processors, this machine has 2" in page.text
    assert "Here a client trained on 640 images in a round." in page.text
    assert "the disk is full" in page.text  # of a cell's own run
    assert page.rows["Training, s"][:2] == [
        ["10.0", "1,119.5", "12.0", "-", "13.01", "-", "-2", "-"],  # with the marks 1 and 2
        ["20.0", "", "", "", "", "", "25.0", ""],
    ]
    assert {Path(path).stem for path in answer["csv"]} == {"flavours", "table3", "table4", "problems"}


# The page


class Text(HTMLParser):
    """The text of a page, its tags, and the cells of its tables' rows by their heads."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.rows, self.cells = [], {}, None
        self.pieces, self.in_cell, self.skipped = [], False, 0
        self.feed(page)
        self.text = " ".join("".join(self.pieces).replace("\xa0", " ").split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.skipped += tag in ("style", "script")
        if tag == "tr":
            self.cells = []
        elif tag in ("td", "th") and self.cells is not None:
            self.cells.append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.skipped -= tag in ("style", "script")
        self.in_cell &= tag not in ("td", "th")
        if tag == "tr" and self.cells:
            self.rows.setdefault(self.cells[0].strip(), []).append([cell.strip() for cell in self.cells[1:]])

    def handle_data(self, data):
        if not self.skipped:
            self.pieces.append(data)
        if self.in_cell:
            self.cells[-1] += data


def test_a_report_is_a_page_and_a_csv_file_for_each_table(tmp_path, run):
    answer = write_report([run.path], tmp_path / "new" / "my report.html")
    page = Text((tmp_path / "new" / "my report.html").read_text())
    names = {"runs", "rounds", "costs", "layers", "layers_by_client", "staleness", "clients", "problems"}
    assert {Path(path).stem for path in answer["csv"]} == names
    linked = {attributes.get("href") for tag, attributes in page.tags if tag == "a"}
    assert {f"my%20report_data/{name}.csv" for name in names} <= linked
    with open(tmp_path / "new" / "my report_data" / "rounds.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["upload_bytes"] for row in rows] == ["500", "260", "54", "30"]
    assert rows[2]["accuracy"] == "" and rows[0]["accuracy"] == "0.3125"  # what is not known is empty, not 0
    assert "80.0 %" in page.text and "n/a" in page.text
    assert sum(tag == "svg" and attributes.get("role") == "img" for tag, attributes in page.tags) == 6
    json.dumps(answer)
    (sent,) = re.findall(
        r'<svg [^>]*aria-label="Sent by.*?</svg>', (tmp_path / "new" / "my report.html").read_text(), re.S
    )
    (line,) = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--s0\); stroke-width: 1.6', sent)
    assert (line.count("M"), line.count("L")) == (1, 3)  # what was sent in the round that failed counts as well


def test_figures_of_an_earlier_report_do_not_stay_beside_a_new_page(tmp_path, run):
    write_report([run.path], tmp_path / "report.html")
    (tmp_path / "report_data" / "mine.csv").write_text("a user's own")
    write_report([write_run(tmp_path / "empty", [], final={})], tmp_path / "report.html")
    assert sorted(path.name for path in (tmp_path / "report_data").iterdir()) == ["files.txt", "mine.csv", "runs.csv"]


HOSTILE = "<script>window.ran=1</script>\"'><img src=x onerror=alert(1)> $x_1$ &amp; #000001 url(#a) \x07"


def test_names_and_reasons_of_devices_are_text_and_nothing_else(tmp_path):
    rows = [
        client(1, HOSTILE, ["a", "b"]) | {"accuracy": 0.5, "test_examples": 1},
        client(1, f"{HOSTILE}2", [], f"refused: {HOSTILE}") | {"phases": {HOSTILE: 1.0}, "limited": HOSTILE},
        {"round": 2, "client": HOSTILE, "layers": [HOSTILE, "a"], "round_seconds": 2, "phases": {"train": 1.0}},
    ]
    runs = [
        write_run(tmp_path / "one", rows, name=HOSTILE, final={"problem": HOSTILE}, codec=HOSTILE, merge=HOSTILE),
        write_run(tmp_path / "two", rows, name="two", model={"name": HOSTILE, HOSTILE: HOSTILE}, layers={HOSTILE: 1}),
        write_profile(tmp_path / "three", [cell(HOSTILE, 4, killed=HOSTILE)], name=HOSTILE, refused={HOSTILE: HOSTILE}),
    ]
    write_report(runs, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    page = Text(text)
    assert not {tag for tag, _ in page.tags} & {"script", "img", "iframe", "object"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "<script" not in text
    assert page.text.count("<script>window.ran=1</script>") > 10  # shown as it is
    with open(tmp_path / "report_data" / "clients.csv", newline="") as file:
        assert HOSTILE in {row["client"] for row in csv.DictReader(file)}
    for svg in re.findall(r'<svg [^>]*role="img".*?</svg>', text, re.S):
        ET.fromstring(svg.replace("\x07", ""))


@pytest.mark.parametrize("final", [{}, {"problem": "it ended after 1 of 10 rounds"}], ids=["killed", "short"])
def test_an_unfinished_run_says_so(tmp_path, final):
    folder = write_run(tmp_path / "run", ROWS[:3], layers=LAYERS, final=final)
    with (folder / "rounds.jsonl").open("a") as file:
        file.write('{"round": 2, "fedn_ro')
    write_report([folder], tmp_path / "report.html")
    page = Text((tmp_path / "report.html").read_text())
    assert f"This run is not whole: {final.get('problem', 'it has not ended')}" in page.text
    assert "the last line of its rounds.jsonl is cut off and was left out" in page.text


@pytest.mark.parametrize("file", [True, False], ids=["empty rounds.jsonl", "none"])
def test_a_run_in_which_nobody_has_answered_yet(tmp_path, file):
    folder = write_run(tmp_path / "run", [], final={})
    if not file:
        (folder / "rounds.jsonl").unlink()
    answer = write_report([folder], tmp_path / "report.html")
    assert answer["result"] == ["Nothing has come from any client yet."]
    page = Text((tmp_path / "report.html").read_text())
    assert "No client has answered yet." in page.text and "every client answered" not in page.text


def test_rows_that_know_next_to_nothing_or_more_than_we_do(tmp_path):
    rows = [
        {"round": None, "fedn_round": "3", "client": "old", "outcome": "round failed"},
        {"round": 2, "fedn_round": "4", "client": "old", "layers": ["a"], "battery_percent": [1, {"x": None}]},
    ]
    folder = write_run(tmp_path / "run", rows)
    (folder / "session.json").write_text(json.dumps({"name": "old", "settings": {"model": "vgg16", "data": 3}}))
    write_report([folder], tmp_path / "report.html")
    assert "the global model stayed as it was" in Text((tmp_path / "report.html").read_text()).text


def test_runs_of_one_name_are_called_by_their_folders(tmp_path):
    folders = [write_run(tmp_path / name, ROWS, layers=LAYERS) for name in ("first", "second")]
    runs, _ = load(folders)
    assert [run.label for run in runs] == ["first", "second"]
    twins = [write_run(tmp_path / parent / "x", []) for parent in ("p", "q")]
    assert len({run.label for run in load(twins)[0]}) == 2


DAMAGED = {
    "no session": ("session.json", None, "run: is not the folder of a run: .* give one that"),
    "cut off": ("session.json", '{"name": "x", "sett', r"session\.json: is not JSON"),
    "a list": ("session.json", "[]", r"session\.json: expected an object"),
    "of something else": ("session.json", '{"version": 1}', r"session\.json: is not a session's: 'name' or 'settings'"),
    "final": ("session.json", '{"name": "x", "settings": {}, "final": 3}', r"session\.json: 'final' must hold keys"),
    "binary": ("rounds.jsonl", b"\xff\xfe\x00", r"rounds\.jsonl: is not text"),
    "no JSON": ("rounds.jsonl", '{"round": 1}{\n', r"rounds\.jsonl, line 1: is not JSON"),
    "no object": ("rounds.jsonl", "3\n", r"rounds\.jsonl, line 1: expected an object"),
    "no client": ("rounds.jsonl", '{"round": 1, "fedn_round": "1"}\n', r"line 1: column 'client' is missing"),
    "wrong type": (
        "rounds.jsonl",
        '{"round": 1, "fedn_round": "1", "client": "c", "layers": []}\n'
        '{"round": 1, "fedn_round": "1", "client": "c", "accuracy": "high"}\n',
        r"rounds\.jsonl, line 2: column 'accuracy' holds 'high', which is no number",
    ),
    "NaN": (
        "rounds.jsonl",
        '{"round": 1, "fedn_round": "1", "client": "c", "loss": NaN}\n',
        r"line 1: column 'loss' holds 'nan', which is no number",
    ),
    "a number that is none": (
        "rounds.jsonl",
        '{"round": 1, "fedn_round": "1", "client": "c", "upload_bytes": 1' + "0" * 400 + "}\n",
        r"line 1: column 'upload_bytes' holds '1000.*', which is no number",
    ),
    "too deep": ("rounds.jsonl", "[" * 100_000 + "\n", r"rounds\.jsonl, line 1: is not JSON"),
    "layers": (
        "rounds.jsonl",
        '{"round": 1, "fedn_round": "1", "client": "c", "layers": [1]}\n',
        r"line 1: column 'layers' holds '\[1\]', which is no list of names",
    ),
    "profile": ("profile.json", '{"kind": "profile"}', r"profile\.json: is not a profile's: .*'cells' is missing"),
    "cell": (
        "profile.json",
        '{"kind": "profile", "name": "p", "cells": [{"flavour": "x", "layers": "4"}]}',
        r"profile\.json: cell 1: column 'layers' holds '4', which is no number",
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


def test_what_is_nobodys_report_is_not_overwritten(tmp_path, run):
    (tmp_path / "mine_data").mkdir()
    for name in ("runs.csv", "table5.csv"):
        (tmp_path / "mine_data" / name).write_text("a user's own")
    with pytest.raises(FednPartialError, match=r"mine_data/runs\.csv is not of an earlier report; choose another name"):
        write_report([run.path], tmp_path / "mine.html")
    assert {path.read_text() for path in (tmp_path / "mine_data").iterdir()} == {"a user's own"}
    for output in (tmp_path, Path(".")):
        with pytest.raises(FednPartialError, match="is a folder; name a file for the report"):
            write_report([run.path], output)


def test_no_spreadsheet_takes_a_devices_name_for_a_formula(tmp_path):
    rows = [{"round": 1, "fedn_round": "1", "client": '=HYPERLINK("http://x","y")', "layers": ["a"]}]
    write_report([write_run(tmp_path / "run", rows)], tmp_path / "report.html")
    with (tmp_path / "report_data" / "clients.csv").open() as file:
        assert next(csv.DictReader(file))["client"] == '\'=HYPERLINK("http://x","y")'


def test_a_profile_that_was_stopped_says_what_is_missing(tmp_path):
    folder = make_profile(tmp_path / "profile", **VGG16)
    content = json.loads((folder / "profile.json").read_text())
    done = [[cell["flavour"], cell["layers"]] for cell in content["cells"]]
    content["asked"] = [*done, ["ssc.xsmall", 13], ["ssc.medium", 4]]
    (folder / "profile.json").write_text(json.dumps(content))
    (told,) = write_report([folder], tmp_path / "report.html")["result"]
    assert told.endswith("The profile is not whole: 2 more were to be tried.")
    with (tmp_path / "report_data" / "problems.csv").open() as file:
        ended = [row["run"] for row in csv.DictReader(file) if row["why"] == "the profile ended before"]
    assert ended == ["ssc.xsmall, 13 layers", "ssc.medium, 4 layers"]


def test_a_profile_that_was_stopped_in_its_first_cell(tmp_path):
    folder = write_profile(tmp_path / "profile", [])
    content = json.loads((folder / "profile.json").read_text()) | {"asked": [["ssc.xsmall", 4]]}
    (folder / "profile.json").write_text(json.dumps(content))
    told = write_report([folder], tmp_path / "report.html")["result"]
    assert told == ["Nothing has been trained yet. The profile is not whole: 1 more were to be tried."]


def test_a_folder_given_twice_is_refused(tmp_path, run):
    with pytest.raises(FednPartialError, match="is given twice"):
        write_report([run.path, run.path / ".." / "run"], tmp_path / "report.html")


def test_a_long_run_and_a_large_fleet_stay_small(tmp_path):
    long = write_run(tmp_path / "long", made_up_rows(rounds=100, clients=10), data={"name": "digits", "clients": 10})
    large = write_run(tmp_path / "large", made_up_rows(rounds=10, clients=1000))
    for folder in (long, large):
        write_report([folder], tmp_path / "report.html")
        assert (tmp_path / "report.html").stat().st_size < 500_000
    assert "1,000 clients are too many for a map" in Text((tmp_path / "report.html").read_text()).text


# Charts


def svg(text):
    return ET.fromstring(text), [node.text for node in ET.fromstring(text).iter("{http://www.w3.org/2000/svg}text")]


def test_a_line_chart_leaves_gaps_where_nothing_is_known_and_has_the_pages_colours():
    series = charts.Series(1, (1, 2, 3, 4, 5), (10, 20, None, 40, 50), crosses=(3,))
    text = charts.lines("accuracy", 'a "title" <b>', [series], "accuracy, %", band=(1, 2, "warm-up"))
    root, words_in_it = svg(text)
    assert root.get("aria-label") == 'a "title" <b>' and root.get("role") == "img"
    assert {"accuracy, %", "warm-up", "round", "50"} <= set(words_in_it)
    assert "var(--s1)" in text and not re.search("#[0-9a-f]{6}", text)
    assert text.count("<use") >= 5  # four markers and a cross
    (line,) = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--s1\); stroke-width: 1.6', text)
    assert line.count("M") == 2  # a line before the gap, and one after it


def test_many_runs_can_be_told_apart():
    looks = [(charts.colour(style), charts.MARKERS[style % 8], charts.dash(style)) for style in range(16)]
    assert len(set(looks)) == 16


def test_of_many_numbers_of_layers_the_most_frequent_are_drawn(tmp_path):
    phases = {"phases": {"train": 1.0}, "round_seconds": 2.0}
    rows = [
        {"round": round, "client": "c", "layers": [f"l{n}" for n in range(number)], **phases}
        for number in range(1, 21)
        for round in ((1, 2) if number > 10 else (1,))
    ]
    write_report([write_run(tmp_path / "run", rows)], tmp_path / "report.html")
    page = Text((tmp_path / "report.html").read_text())
    assert "The 16 most frequent of 20 numbers of layers" in page.text
    bars = re.findall(r">(\d+) layers?</text>", (tmp_path / "report.html").read_text())
    assert {str(number) for number in range(11, 21)} <= set(bars) and len(bars) == 16


def test_nothing_known_is_no_chart():
    assert charts.lines("x", "x", [charts.Series(0, (1, 2), (None, None), crosses=(1,))], "x") is None
    assert charts.bars("x", "x", [charts.Bar("a", (None, 0.0))], ("p", "rest"), "s") is None
    assert charts.heat("x", "x", charts.Heat((), (), (), (), "round")) is None


def test_ids_of_two_charts_differ():
    ids = []
    for name in ("one", "two"):
        text = charts.lines(name, "t", [charts.Series(0, (1, 2), (1, 2))], "y")
        ids.append(set(re.findall(r'\bid="([^"]*)"', text)))
        used = set(re.findall(r'(?:href="#|url\(#)([^")]*)', text))
        assert used and used <= ids[-1]
    assert ids[0] and not ids[0] & ids[1]


def test_a_label_that_looks_like_our_marks_stays_as_it_is():
    label = '#000001 id="a" url(#b) $x$ <metadata>'
    _, texts = svg(charts.bars("x", "t", [charts.Bar(label, (1.0, 2.0))], ("load", "rest"), "s"))
    assert label in texts and "3.0 s" in texts


def test_bars_are_as_long_as_what_they_stand_for():
    text = charts.bars("x", "t", [charts.Bar("a", (1.0, 3.0)), charts.Bar("b", (2.0, None))], ("load", "rest"), "s")
    shapes = re.findall(r'<path d="M ([\d.]+) [\d.]+\s+L ([\d.]+) [^"]*"[^>]*fill: var\(--p(\d)\)', text)
    widths = [(phase, float(right) - float(left)) for left, right, phase in shapes]
    unit = widths[0][1]
    assert [(phase, round(width / unit, 2)) for phase, width in widths] == [("0", 1), ("1", 3), ("0", 2)]


def test_a_heat_map_has_its_numbers_and_joins_what_is_too_much():
    few = charts.Heat(("a", "b"), ("1", "2"), ((0, 3), (1, 2)), (3, 3), "round", ("stale",), (("4",), ("5",)))
    _, texts = svg(charts.heat("x", "t", few))
    assert sorted(texts) == sorted(["a", "b", "1", "2", "3", "1", "2", "round", "stale", "4", "5"])  # 0 is left out
    many = charts.Heat(("a",), tuple(map(str, range(1, 301))), ((1,) * 300,), (2,) * 300, "round")
    columns, counts, wholes = charts._joined(many)
    assert (columns[:2], counts[0][0], wholes[0], len(columns)) == (("1", "4"), 3, 6, 100)
    assert len(charts.heat("x", "t", many)) < 10_000  # equal neighbours are one shape


@pytest.mark.parametrize(
    ("count", "whole", "step"),
    [(0, 3, 0), (1, 3, 2), (3, 3, 5), (1, 1000, 1), (200, 1000, 1), (201, 1000, 2), (1, 0, 0)],
)
def test_the_steps_of_a_heat_maps_colour(count, whole, step):
    assert charts.level(count, whole) == step


# The command, the install, and what a run writes for it


def test_the_command_prints_the_result_or_json(tmp_path, run):
    output = tmp_path / "report.html"
    told = CliRunner().invoke(main, ["report", str(run.path), "-o", str(output)])
    assert told.exit_code == 0 and "reached an accuracy of" in told.output and "8 CSV files beside it" in told.output
    told = CliRunner().invoke(main, ["report", str(run.path), "-o", str(output), "--json"])
    answer = json.loads(told.stdout)
    assert answer["output"] == str(output) and all(Path(path).exists() for path in answer["csv"])
    assert answer["runs"][0]["upload_bytes"] == UPLOADED and answer["runs"][0]["accuracy"] == 0.8
    told = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert told.exit_code == 2 and "is not the folder of a run" in told.output


def test_what_draws_the_report_comes_with_the_operators_install_only():
    required = importlib.metadata.requires("fedn-partial")
    for name in ("matplotlib", "jinja2"):
        assert [line for line in required if line.startswith(name)] == [f'{name}; extra == "local"']


def test_a_report_needs_no_tensorflow():
    code = "import sys; from fedn_partial.client.report.page import write_report; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "matplotlib" in modules and not {"tensorflow", "keras", "matplotlib.pyplot"} & set(modules)


def test_a_runs_folder_says_on_what_and_with_which_layers_it_ran(tmp_path):
    folder = run_files.RunFolder(tmp_path, load_case(CONFIGS / "quickstart.yaml"))
    sizes = {"conv0": 7, "b": 9}
    folder.know_layers([types.SimpleNamespace(name=name, parameters=size) for name, size in sizes.items()])
    session = json.loads((folder.path / "session.json").read_text())
    assert list(session["layers"].items()) == list(sizes.items())
    found = re.fullmatch(r"\w+ \w+, ([\d.]+) processors?, ([\d.]+) GB of memory", session["machine"])
    assert 0 < float(found[1]) <= psutil.cpu_count()
    assert 0 < float(found[2]) <= psutil.virtual_memory().total / 1e9 + 0.1
    folder.finish({"problem": None})
    run = load_run(folder.path)
    assert statistics.layer_names(run) == ["conv0", "b"] and statistics.layer_count(run) == 2
