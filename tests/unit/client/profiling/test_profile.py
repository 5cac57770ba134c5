"""Flavours, the cells of a profile, and its table."""

import dataclasses
import json
import os

import pytest
from click.testing import CliRunner

from fedn_partial.client.commands.cli import main
from fedn_partial.client.profiling import flavours, profile
from fedn_partial.client.records.outcome import Outcome
from fedn_partial.client.records.run_folder import Row
from fedn_partial.data.shard import open_shard, write_shard
from fedn_partial.errors import FednPartialError
from fedn_partial.settings.case import load_case
from fedn_partial.submodel.layers import read_layers

CASE = """
name: small
model: {name: %s}
selection: {selector: random, layers: 2}
"""
EMPTY = profile.Cell("ssc.xsmall", 4, cpus=1, memory_mib=1024, total_layers=14)


def case(tmp_path, model="lstm_har"):
    (tmp_path / "case.yaml").write_text(CASE % model)
    return load_case(tmp_path / "case.yaml")


def row(round_, layers, **columns):
    return Row(round=round_, fedn_round=str(round_), client="profile", layers=["x"] * layers, **columns)


def test_the_table_holds_the_paper_s_seven_and_two_boards():
    """Table 4 of Alawadi et al. 2023: processors and GiB of memory."""
    layers = {f.name: (f.cpus, f.memory_mib / 1024) for f in flavours.load_flavours().values()}
    assert list(layers.items())[:7] == [
        ("ssc.xsmall", (1, 1)),
        ("ssc.small", (1, 2)),
        ("ssc.small.highcpu", (2, 2)),
        ("ssc.medium", (2, 4)),
        ("ssc.medium.highcpu", (4, 4)),
        ("ssc.large", (4, 8)),
        ("ssc.xlarge", (8, 16)),
    ]
    assert list(layers)[7:] == ["jetson-nano-2gb", "raspberry-pi-4"]


def test_a_flavour_that_this_machine_cannot_play_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(flavours.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(flavours.cgroup, "machine_memory", lambda: 3 * 2**30)
    playable, refused = flavours.pick(["ssc.large", "ssc.xsmall", "ssc.medium", "ssc.xsmall"])
    assert [flavour.name for flavour in playable] == ["ssc.xsmall"]
    assert refused == {
        "ssc.large": "it has 4 processors, this machine has 2",
        "ssc.medium": "it has 4096 MiB of memory, this machine has 3072",
    }


def test_an_unknown_flavour_is_named_with_those_there_are():
    with pytest.raises(FednPartialError, match=r"no flavour called ssc\.tiny; .* has ssc\.xsmall, ssc\.small"):
        flavours.pick(["ssc.xsmall", "ssc.tiny"])


def test_figures_are_those_of_the_rounds_that_trained_so_many_layers():
    rows = [
        row(1, 4, train_seconds=2.0, round_seconds=3.0, machine_cpu_percent=80, ram_used_mb=500, ram_percent=50),
        row(2, 4, train_seconds=4.0, round_seconds=6.0, machine_cpu_percent=90, ram_used_mb=400, ram_percent=40),
    ]
    cell = profile.fill(EMPTY, rows, 2, memory_kills=0)
    assert (cell.rounds, cell.seconds, cell.round_seconds, cell.cpu_percent) == (2, 3.0, 4.5, 85)
    assert (cell.ram_mb, cell.ram_percent, cell.killed, cell.limited) == (500, 50, None, None)


def test_what_is_not_known_is_not_made_up():
    cell = profile.fill(EMPTY, [row(1, 4, train_seconds=2.0)], 1, memory_kills=0)
    assert (cell.seconds, cell.round_seconds, cell.cpu_percent, cell.ram_mb) == (2.0, None, None, None)


def test_a_round_with_fewer_layers_is_no_figure_of_so_many():
    less = row(2, 3, train_seconds=9.0, limited="3 of the 4 layers asked for: memory")
    cell = profile.fill(EMPTY, [row(1, 4, train_seconds=2.0), less], 2, memory_kills=0)
    assert (cell.rounds, cell.seconds, cell.killed) == (1, 2.0, None)
    assert cell.limited == "3.5 of 4 layers trained in 2 of 2 rounds: 3 of the 4 layers asked for: memory"
    cell = profile.fill(EMPTY, [less], 1, memory_kills=0)
    assert (cell.rounds, cell.seconds, cell.ram_mb, cell.killed) == (0, None, None, None)
    assert cell.limited.startswith("3.0 of 4 layers trained in 1 of 1 rounds")


def test_only_a_kill_for_memory_counts_as_killed():
    whole = row(1, 4, train_seconds=2.0)
    less = row(2, 3, train_seconds=9.0, limited="3 of the 4 layers asked for: since more was killed for memory")
    cell = profile.fill(EMPTY, [whole, less, less], 3, memory_kills=1)
    assert cell.seconds is None and cell.limited is None
    assert cell.killed == f"killed in round 2 of 3: {less.limited}"
    cell = profile.fill(EMPTY, [whole], 2, memory_kills=1, ended="the client has ended")
    assert (cell.killed, cell.seconds) == ("killed in round 2 of 2: the client has ended", None)
    cell = profile.fill(EMPTY, [], 2, memory_kills=2)
    assert cell.killed == "killed in round 1 of 2: no update arrived"
    refused = [
        Row(
            round=1,
            fedn_round="1",
            client="profile",
            outcome=Outcome.REFUSED,
            reason="none of the 4 layers asked for fits",
        )
    ]
    cell = profile.fill(EMPTY, refused, 1, memory_kills=0)
    assert (cell.killed, cell.seconds) == (None, None)
    assert cell.limited == "0.0 of 4 layers trained in 1 of 1 rounds: none of the 4 layers asked for fits"
    cell = profile.fill(EMPTY, [whole], 2, memory_kills=0, ended="the client has ended")
    assert cell.limited == "4.0 of 4 layers trained in 1 of 2 rounds: the client has ended" and cell.seconds == 2.0
    cell = profile.fill(EMPTY, [whole], 1, memory_kills=1)
    assert cell.seconds == 2.0 and "killed another process" in cell.limited


def test_the_text_table_puts_the_paper_beside_and_tells_why_cells_are_empty(tmp_path):
    measured = profile.fill(EMPTY, [row(1, 4, train_seconds=2.0)], 1, memory_kills=0)
    killed = profile.fill(dataclasses.replace(EMPTY, layers=7), [], 1, memory_kills=1, ended="the client has ended")
    content = {"kind": "profile", "name": "x", "cells": [dataclasses.asdict(cell) for cell in (measured, killed)]}

    def lines(**settings):
        (tmp_path / "profile.json").write_text(json.dumps({**content, "settings": settings}))
        return profile.cost_table(tmp_path).splitlines()

    first, second, note = lines(model={"name": "vgg16", "width": 1.0})[1:]
    assert first.split() == ["ssc.xsmall", "4", "2.0", "n/a", "n/a", "n/a", "1119.5", "99.0", "988.0", "95.7"]
    assert second.split() == ["ssc.xsmall", "7", "-", "-", "-", "-", "-", "-", "-", "-"]
    assert note == "ssc.xsmall, 7 layers: killed in round 1 of 1: the client has ended"
    assert lines(model={"name": "lstm_har"})[1].split() == ["ssc.xsmall", "4", "2.0", "n/a", "n/a", "n/a"]


@pytest.mark.parametrize("model", ["vgg16", "lstm_har", "text_cnn"])
def test_made_up_data_fit_the_model(tmp_path, build, model):
    made = profile.random_shard(case(tmp_path, model), 5)
    assert made.origin["source"] == "random data"
    write_shard(tmp_path / "data", made, "made up")
    assert profile.named_shard(tmp_path / "data").origin["source"] == f"the shard {tmp_path / 'data'}"
    keras_model = build(model)
    assert open_shard(tmp_path / "data").x_train.shape == (5, *keras_model.input.shape[1:])
    assert (made.x_train.dtype.name == "int32") == (keras_model.input.dtype == "int32")
    assert len(made.classes) == max(2, keras_model.output.shape[-1])


@pytest.mark.parametrize("numbers", [[0], [2, 7]])
def test_numbers_of_layers_that_the_model_does_not_have(tmp_path, build, numbers):
    assert len(read_layers(build("lstm_har"))) == 6
    with pytest.raises(FednPartialError, match=f"--layers: {numbers[-1]} is not from 1 to 6"):
        profile.check_layers(case(tmp_path), numbers)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--flavours", "ssc.xsmall", "--layers", "4,x"], "invalid --layers '4,x'"),
        (["--flavours", "nose", "--layers", "4"], "no flavour called nose"),
        (["--flavours", "ssc.xsmall", "--layers", "4"], "Docker does not answer on this machine"),
        (["--flavours", "ssc.xsmall", "--layers", "4", "--rounds", "0"], "0 is not in the range"),
    ],
)
def test_what_a_profile_cannot_begin_with(tmp_path, monkeypatch, arguments, told):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    case(tmp_path)
    answer = CliRunner().invoke(main, ["profile", str(tmp_path / "case.yaml"), *arguments])
    assert answer.exit_code == 2 and told in answer.output, answer.output
    assert not (tmp_path / "runs").exists()


def test_no_flavour_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    case(tmp_path)
    answer = CliRunner().invoke(
        main, ["profile", str(tmp_path / "case.yaml"), "--flavours", "ssc.large", "--layers", "4"]
    )
    assert answer.exit_code == 2
    assert "ssc.large is skipped: it has 4 processors, this machine has 1" in answer.output
    assert "none of these flavours fits this machine" in answer.output
