"""Report of the previous round, and log lines of the server functions."""

from __future__ import annotations

import json

import pytest
from server_functions.server_oracles import log_lines
from server_functions.server_worlds import client, with_metadata


def test_the_round_before_is_told_with_coverage_and_staleness(normalised, start, send):
    combiner = start(normalised)
    selections = [["conv0", "dense"], ["dense"], ["conv0", "dense"], ["conv0"]]
    told = []
    for trained in selections:
        good, other, bad = send(
            normalised,
            client(normalised, "a", trained),
            client(normalised, "b", trained[:1]),
            client(normalised, "c", ["conv1"]),
        )
        uploads = [good, with_metadata(codec="float16")(bad), other]
        told.append(combiner.round(normalised.model, uploads).settings["previous"])
    told.append(combiner.round(normalised.model, []).settings["previous"])
    assert told[0] == {}
    ages = [{"conv1": 1}, {"conv0": 1, "conv1": 2}, {"conv1": 3}, {"conv1": 4, "dense": 1}]
    for number, (previous, age) in enumerate(zip(told[1:], ages, strict=True), start=1):
        assert previous["round"] == number
        assert previous["merged"] == ["id-a", "id-b"]
        assert list(previous["skipped"]) == ["id-c"]
        assert "codec 'float16'" in previous["skipped"]["id-c"]
        assert previous["staleness"] == age


def test_coverage_is_logged(normalised, start, send, caplog):
    start(normalised).round(normalised.model, send(normalised, client(normalised, "a", ["dense"])))
    (line,) = log_lines(caplog, "coverage")
    assert "1 merged, 0 skipped, coverage 1 of 3 layers, staleness: conv0 1, conv1 1" in line


HOSTILE = {
    "lines": "no memory\r\n2026-01-01 [INFO] fedn-partial: all is well\u2028\x0b\x85" * 200,
    "long": "x" * 10_000,
    "terminal": "\x1b[2J\x1b[1;1Hnothing to see\x08\x00" * 200,
    "half a character": "\ud800" * 200,
}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("place", ["refused", "client", "client of a good update", "codec"])
def test_a_client_cannot_write_more_than_a_line_into_the_log(place, text, normalised, start, send, caplog):
    (upload,) = send(normalised, client(normalised, "a"))
    changes = {
        "refused": {"refused": HOSTILE[text]},
        "client": {"refused": "no memory", "client": HOSTILE[text]},
        "client of a good update": {"client": HOSTILE[text]},
        "codec": {"codec": HOSTILE[text]},
    }[place]
    combiner = start(normalised)
    combiner.round(normalised.model, [with_metadata(**changes)(upload)])
    told = combiner.round(normalised.model, []).settings
    assert len(json.dumps(told["previous"])) < 6_000  # goes to every client; JSON needs six letters for one
    wanted = "merged 3 layers of" if place == "client of a good update" else "skipped the update of"
    (line,) = log_lines(caplog, wanted)
    assert len(line) < 1_000
    assert len(line.splitlines()) == 1
    assert line.isprintable()  # no control characters, and nothing that a stream cannot encode
