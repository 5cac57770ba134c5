"""The page of a report: what it shows of whole, unfinished, old, hostile and large runs."""

import csv
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from reports.report_cases import LAYERS, ROWS, VGG16, Text, cell, client, make_profile, vgg_rows
from reports.run_folders import made_up_rows, write_profile, write_run

from fedn_partial.client.report.page import write_report


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


def test_a_profile_on_a_page(tmp_path):
    folder = make_profile(tmp_path / "profile", **VGG16)
    sent = vgg_rows((4, 2**20, 10))
    sent[0]["outcome"] = "refused: the disk is full"
    write_run(folder / "ssc.xsmall-4", sent, name="profile", model={"name": "vgg16"})
    answer = write_report([folder], tmp_path / "report.html")
    assert answer["result"] == [
        "Training of 4, 7, 10 and 14 of 14 layers was profiled on 2 flavours; 5 of 6 combinations ran, 1 trained fewer "
        "layers than requested, and 1 was killed for lack of memory; 1 of those that ran did not run in the paper. "
        "Training 4 layers took 20 % less time than 14, on average (means of 1 to 2 rounds each)."
    ]
    page = Text((tmp_path / "report.html").read_text())
    assert "ssc.xsmall, 14 layers: killed for lack of memory; in round 1, after 3 of 20 steps" in page.text
    assert "ssc.xsmall, 10 layers: trained fewer layers than requested: 9.0 of 10 layers: memory 900.0" in page.text
    assert "ssc.large: not run, has 4 processors, this machine has 2" in page.text
    assert "Here, a client trained on 640 images per round." in page.text
    assert "the disk is full" in page.text  # of a cell's own run
    assert page.rows["Training, s"][:2] == [
        ["10.0", "1,119.5", "12.0", "-", "13.01", "-", "-2", "-"],  # with the marks 1 and 2
        ["20.0", "", "", "", "", "", "25.0", ""],
    ]
    assert {Path(path).stem for path in answer["csv"]} == {"flavours", "table3", "table4", "problems"}


def test_the_data_are_those_that_the_run_used(tmp_path):
    path = write_run(tmp_path / "run", ROWS, layers=LAYERS, data={"name": "digits", "clients": 3})
    session = json.loads((path / "session.json").read_text())
    used = {"name": "casa", "clients": 2, "partition": "natural"}
    (path / "session.json").write_text(json.dumps({**session, "data": used}))
    write_report([path], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "casa, partitioned across 2 clients (natural)" in page and "vgg16 on casa" in page
    assert "digits" not in page


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
    assert f"This run is incomplete: {final.get('problem', 'it has not ended')}" in page.text
    assert "the last line of rounds.jsonl is incomplete and was ignored" in page.text


@pytest.mark.parametrize("file", [True, False], ids=["empty rounds.jsonl", "none"])
def test_a_run_in_which_nobody_has_answered_yet(tmp_path, file):
    folder = write_run(tmp_path / "run", [], final={})
    if not file:
        (folder / "rounds.jsonl").unlink()
    answer = write_report([folder], tmp_path / "report.html")
    assert answer["result"] == ["No client has answered yet."]
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
    assert "the global model did not change" in Text((tmp_path / "report.html").read_text()).text


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


def test_a_long_run_and_a_large_fleet_stay_small(tmp_path):
    long = write_run(tmp_path / "long", made_up_rows(rounds=100, clients=10), data={"name": "digits", "clients": 10})
    large = write_run(tmp_path / "large", made_up_rows(rounds=10, clients=1000))
    for folder in (long, large):
        write_report([folder], tmp_path / "report.html")
        assert (tmp_path / "report.html").stat().st_size < 500_000
    assert "No heat map for more than 40 clients (1,000)" in Text((tmp_path / "report.html").read_text()).text
