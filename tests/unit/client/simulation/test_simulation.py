"""Sessions without FEDn: the same whatever the number of processes, also after a kill; who answers, and how long."""

import dataclasses
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest
import yaml
from paths import ROOT
from reports.run_folders import write_profile

from fedn_partial import models
from fedn_partial.client import simulation
from fedn_partial.client.records.load import load_run
from fedn_partial.client.records.run_folder import RunFolder, weighted_mean
from fedn_partial.client.simulation import checkpoint, simulate
from fedn_partial.client.simulation.devices import DeviceTiming
from fedn_partial.client.simulation.session import SimulatedSession
from fedn_partial.client.simulation.workers import workers
from fedn_partial.data.shard import Shard, open_shard, write_shard
from fedn_partial.errors import FednPartialError
from fedn_partial.settings.case import Case
from fedn_partial.settings.schema import parse

CLIENTS = 4
RAW = {
    "name": "simulated",
    "seed": 5,
    "model": {"name": "lstm_har"},
    "selection": {"selector": "uniform", "layers": 2},
    "codec": "int8",
    "server_optimizer": {"name": "momentum", "beta": 0.5},
    "session": {"rounds": 4},
}


def case_of(**changes) -> Case:
    return parse(Case, {**RAW, **changes}, "test")


@pytest.fixture(scope="module")
def pool():
    with workers(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards of unlike sizes: features that tell the class."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for number in range(1, CLIENTS + 1):
        y = random.integers(0, 10, 20 * number + 15).astype(np.int32)
        x = random.random((len(y), 1, 36), dtype=np.float32)
        x[np.arange(len(y)), 0, y] += 3
        shard = Shard(x[15:], y[15:], x[:15], y[:15], tuple(map(str, range(10))))
        write_shard(folder / f"client-{number}", shard, "made up")
    return folder


def played(case, folder, pool, data):
    final = simulate(case, folder, None, pool, data, print_line=lambda line: None)
    return final, load_run(folder).rows


def left_by(folder) -> tuple[bytes, dict]:
    """What a run comes to: its rows, and the model."""
    (model,) = folder.glob("model-*.npz")
    with np.load(model) as archive:
        return (folder / "rounds.jsonl").read_bytes(), {name: archive[name].tobytes() for name in archive.files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, pool, data):
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    played(case_of(simulation={"dropout": 0.3}), folder, pool, data)
    return folder


def test_the_data_of_a_run_are_those_that_it_used(whole, pool, data, tmp_path):
    case = case_of(data={"name": "digits", "clients": 2}, session={"rounds": 1})
    played(case, tmp_path / "run", pool, data)
    used = load_run(tmp_path / "run").data
    assert (used["name"], used["clients"], used["partition"]) == ("made up", CLIENTS, None)


EXPERIMENTS = " ".join((ROOT / "docs/EXPERIMENTS.md").read_text().split())
ARCHITECTURE = " ".join((ROOT / "docs/ARCHITECTURE.md").read_text().split())


def test_the_docs_name_every_file_of_a_runs_folder(whole):
    written = {re.sub(r"\d+", "N", path.name) for path in whole.iterdir()}
    assert {"session.json", "rounds.jsonl", "model-N.npz", "checkpoint.json"} <= written
    assert [name for name in written if f"`{name}`" not in EXPERIMENTS] == []


def test_the_docs_say_what_a_new_model_takes():
    """A file alone is not found: it is named in MODELS too."""
    files = {path.stem for path in Path(models.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == set(models.MODELS)
    assert "- model: a file in `models/`, and an entry in `MODELS` there -" in ARCHITECTURE


def test_it_learns_and_writes_a_runs_folder(whole):
    rows = load_run(whole).rows
    session = json.loads((whole / "session.json").read_text())
    assert session["simulated"] is True and session["final"]["problem"] is None
    assert session["final"]["accuracy"] == weighted_mean([row for row in rows if row.round == 4], "accuracy")
    assert all(len(row.layers) == 2 and row.outcome_text() == "merged" for row in rows)
    assert all(row.num_examples == 20 * int(row.client[-1]) and row.test_examples == 15 for row in rows)
    losses = [weighted_mean([row for row in rows if row.round == number], "loss") for number in (1, 4)]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("processes", [1, 3])
def test_the_number_of_processes_changes_nothing(processes, whole, data, tmp_path):
    with workers(processes) as other:
        played(case_of(simulation={"dropout": 0.3}), tmp_path / "run", other, data)
    assert left_by(tmp_path / "run") == left_by(whole)


def start(tmp_path, data, *options) -> subprocess.Popen:
    (tmp_path / "case.yaml").write_text(yaml.safe_dump({**RAW, "simulation": {"dropout": 0.3}}))
    command = [sys.executable, "-m", "fedn_partial.client", "simulate", "case.yaml", "--data", data, *options]
    return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_killed_run_goes_on_to_the_same_end(whole, data, tmp_path):
    process = start(tmp_path, data, "--runs", "runs")
    for line in process.stdout:
        if line.startswith("round  2"):
            break
    else:
        pytest.fail("it ended before round 2")
    (folder,) = (tmp_path / "runs").glob("simulated-*")
    deadline = time.monotonic() + 60
    in_round_3 = "states/*/simulation/3*"  # of a client that encodes its update, or has written it
    while not list(folder.glob(in_round_3)) and time.monotonic() < deadline:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((folder / "checkpoint.json").read_text())["round"] == 2
    with (folder / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "cut')  # as if the kill had hit it while it wrote
    again = start(tmp_path, data, "--resume", folder, "--processes", "1")
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert "round  3 of 4" in output and "round  2 of 4" not in output
    assert "[INFO]" not in output  # FEDn's lines, one for each client
    assert left_by(folder) == left_by(whole)


def test_a_run_killed_between_the_clients_states_and_the_checkpoint_repeats_the_round(
    whole, pool, data, tmp_path, monkeypatch
):
    case, folder, write = case_of(simulation={"dropout": 0.3}), tmp_path / "run", checkpoint.write

    def killed_in_round_3(folder, newest):
        if newest.round == 3:
            raise KeyboardInterrupt
        write(folder, newest)

    monkeypatch.setattr(checkpoint, "write", killed_in_round_3)
    with pytest.raises(KeyboardInterrupt):
        played(case, folder, pool, data)
    monkeypatch.undo()
    states = {path.name for path in folder.glob("states/*/simulation/*")}
    assert "3" in states and json.loads((folder / "checkpoint.json").read_text())["round"] == 2
    played(case, folder, pool, data)
    assert left_by(folder) == left_by(whole)


def test_a_simulation_stores_one_state_per_client_between_rounds(pool, data, tmp_path, monkeypatch):
    stored, write = [], checkpoint.write

    def noted(folder, newest):
        stored.append({path.parts[-3:] for path in folder.glob("states/*/*/*")})
        write(folder, newest)

    monkeypatch.setattr(checkpoint, "write", noted)
    played(case_of(session={"rounds": 3}), tmp_path / "run", pool, data)
    clients = [f"client-{number}" for number in range(1, CLIENTS + 1)]
    for number, states in enumerate(stored, start=1):  # before those of the previous round are removed
        rounds = [str(previous) for previous in (number - 1, number) if previous]
        assert states == {(client, "simulation", round_) for client in clients for round_ in rounds}
    assert not (tmp_path / "run" / "states").exists()


def test_a_checkpoint_with_client_states_of_an_earlier_version_is_refused(whole, pool, data, tmp_path):
    folder = copy_of_run(whole, tmp_path)
    content = json.loads((folder / "checkpoint.json").read_text())
    (folder / "checkpoint.json").write_text(json.dumps({**content, "states": {"client-1": 4}}))
    with pytest.raises(FednPartialError, match="is of an earlier version"):
        played(case_of(simulation={"dropout": 0.3}), folder, pool, data)
    (folder / "checkpoint.json").write_text(json.dumps({**content, "states": {}}))  # of a codec without residuals
    final, _ = played(case_of(simulation={"dropout": 0.3}), folder, pool, data)
    assert final["rounds"] == 4


def test_a_run_that_is_done_is_not_run_again_and_another_case_does_not_mix_in(whole, pool, data):
    before = left_by(whole)
    final, _ = played(case_of(simulation={"dropout": 0.3}), whole, pool, data)
    assert final["rounds"] == 4 and left_by(whole) == before
    with pytest.raises(FednPartialError, match=r"other settings \(seed\); choose another folder"):
        played(case_of(simulation={"dropout": 0.3}, seed=6), whole, pool, data)


def test_as_many_clients_as_the_session_says_train_in_a_round(pool, data, tmp_path):
    case = case_of(session={"rounds": 4, "clients_per_round": 2})
    final, rows = played(case, tmp_path / "run", pool, data)
    asked = [tuple(row.client for row in rows if row.round == number) for number in range(1, 5)]
    assert all(len(clients) == 2 for clients in asked) and len(set(asked)) > 1
    assert final["problem"] is None


def test_stratified_layers_are_selected_as_in_a_fleet(pool, data, tmp_path):
    """The server knows the clients after the first round: then 4 clients with 3 of 6 layers train each twice."""
    case = case_of(selection={"selector": "stratified", "layers": 3}, codec="float32")
    _, rows = played(case, tmp_path / "run", pool, data)
    for number in (2, 3, 4):
        trained = [name for row in rows if row.round == number for name in row.layers]
        assert {trained.count(name) for name in trained} == {2} and len(set(trained)) == 6


def test_nobody_answers_and_the_model_stays(pool, data, tmp_path):
    case = case_of(simulation={"dropout": 0.999}, session={"rounds": 2})
    final, rows = played(case, tmp_path / "run", pool, data)
    assert rows == () and final["failed_rounds"] == 2 and final["problem"] == "its last round failed"


def test_the_largest_shard_limits_the_examples_of_an_update_unless_the_case_does(pool, data, tmp_path):
    _, rows = played(case_of(max_examples=60, session={"rounds": 1}), tmp_path / "run", pool, data)
    reason = "skipped: has num_examples '80', expected a string with a number from 1 to max_examples, 60"
    assert {row.client: row.outcome_text() for row in rows} == {
        **{f"client-{number}": "merged" for number in (1, 2, 3)},
        "client-4": reason,
    }
    shards = {path.name: path for path in sorted(data.iterdir())}
    (folder := tmp_path / "other").mkdir()
    session = SimulatedSession(case_of(), folder, {}, shards, [], pool)
    assert session.server.client["max_examples"] == 80


def test_a_client_that_cannot_train_is_refused_and_the_others_go_on(pool, data, tmp_path):
    broken = tmp_path / "data"
    for number in (1, 2):
        (broken / f"client-{number}").parent.mkdir(exist_ok=True)
        (broken / f"client-{number}").symlink_to(data / f"client-{number}")
    shard = open_shard(data / "client-3")
    wrong = dataclasses.replace(shard, x_train=np.zeros((60, 1, 35), np.float32))
    write_shard(broken / "client-3", wrong, "made up")
    _, rows = played(case_of(session={"rounds": 1}), tmp_path / "run", pool, broken)
    outcomes = {row.client: row.outcome_text() for row in rows}
    assert outcomes["client-1"] == outcomes["client-2"] == "merged"
    assert outcomes["client-3"].startswith("refused: examples have shape (1, 35)")


# Simulated time

PROFILE = {  # layers: (train seconds, round seconds) of 100 examples
    "slow": {1: (10.0, 14.0), 3: (20.0, 24.0), 6: None},
    "fast": {1: (1.0, 2.0), 6: (6.0, 7.0)},
}


@pytest.fixture
def profile(tmp_path):
    cells = [
        {"flavour": flavour, "layers": layers, "killed": "killed in round 1 of 2" if times is None else None}
        | dict(zip(("seconds", "round_seconds"), times or (None, None), strict=True))
        for flavour, measured in PROFILE.items()
        for layers, times in measured.items()
    ]
    return write_profile(tmp_path / "profile", cells, examples=100, model=RAW["model"])


def with_devices(profile, **changes) -> dict:
    devices = [
        {"profile": str(profile), "flavour": "slow", "upload_mbit": 1, "download_mbit": 2},
        {"profile": str(profile), "flavour": "fast"},
    ]
    return {"devices": devices, **changes}


def test_a_round_takes_download_training_and_upload_of_the_slowest(profile, pool, data, tmp_path):
    case = case_of(simulation=with_devices(profile, global_seconds=3), session={"rounds": 2, "round_timeout": 1000})
    final, rows = played(case, tmp_path / "run", pool, data)
    model_bytes = next(iter(rows)).download_bytes / 2
    totals = []
    for number in (1, 2):
        for row in (row for row in rows if row.round == number):
            slow = int(row.client[-1]) % 2 == 1
            per_example = 0.15 if slow else 0.02  # 2 layers, between those that were measured
            training = per_example * row.num_examples
            transfer = (8 * model_bytes / 2e6 + 8 * row.upload_bytes / 1e6) if slow else 0
            assert row.train_seconds == pytest.approx(training, abs=1e-3)
            assert row.round_seconds == pytest.approx((4 if slow else 1) + training + transfer, abs=2e-3)
        totals.append(3 + max(row.round_seconds for row in rows if row.round == number))
    assert final["simulated_seconds"] == pytest.approx(sum(totals), abs=1e-3)


def test_a_device_trains_no_more_layers_than_its_profile_could(profile, pool, data, tmp_path):
    case = case_of(
        selection={"selector": "all"}, simulation=with_devices(profile), session={"rounds": 1, "round_timeout": 1000}
    )
    _, rows = played(case, tmp_path / "run", pool, data)
    assert {row.client: (len(row.layers), row.limited) for row in rows} == {
        "client-1": (3, "3 of the 6 requested layers"),
        "client-2": (6, None),
        "client-3": (3, "3 of the 6 requested layers"),
        "client-4": (6, None),
    }


def test_stragglers_are_late_and_not_merged(profile, pool, data, tmp_path):
    simulation = with_devices(profile, straggler=1.0, slowdown=10.0)
    case = case_of(simulation=simulation, session={"rounds": 1, "round_timeout": 60}, codec="float32")
    final, rows = played(case, tmp_path / "run", pool, data)
    late = {row.client for row in rows if row.outcome_text().startswith("skipped: late")}
    assert late == {"client-1", "client-3"}
    assert {row.client for row in rows if row.outcome_text() == "merged"} == {"client-2", "client-4"}
    assert final["simulated_seconds"] == 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flavour": "none"}, "has no flavour 'none'; it has slow, fast"),
        ({"profile": "/nowhere"}, "/nowhere"),
    ],
)
def test_a_device_that_is_not_in_the_profile_is_named(changes, message, profile, pool, data, tmp_path):
    simulation = with_devices(profile)
    simulation["devices"][0] |= changes
    with pytest.raises(FednPartialError, match=message):
        played(case_of(simulation=simulation), tmp_path / "run", pool, data)


def test_a_profile_of_another_model_is_refused(profile, pool, data, tmp_path):
    case = case_of(simulation=with_devices(profile), model={"name": "lstm_har", "classes": 12})
    with pytest.raises(FednPartialError, match="is a profile of model"):
        played(case, tmp_path / "run", pool, data)


def test_stragglers_without_devices_are_refused():
    with pytest.raises(FednPartialError, match="straggler requires devices"):
        case_of(simulation={"straggler": 0.1})


def test_local_statistics_stay_with_each_client(pool, tmp_path):
    case = case_of(
        model={"name": "vgg16", "width": 0.015625, "batchnorm_momentum": 0.5},
        selection={"selector": "all"},
        codec="float32",
        batchnorm_statistics="local",
        session={"rounds": 2},
        data={"name": "digits", "clients": 2, "examples": 120},
    )
    _, rows = played(case, tmp_path / "run", pool, None)
    assert {row.outcome_text() for row in rows} == {"merged"}
    (model,) = (tmp_path / "run").glob("model-*.npz")
    with np.load(model) as archive:  # of the second convolution's BatchNormalization
        assert np.array_equal(archive["4"], np.zeros_like(archive["4"]))
        assert np.array_equal(archive["5"], np.ones_like(archive["5"]))


def test_no_data_is_said(pool, tmp_path):
    with pytest.raises(FednPartialError, match="section 'data' is missing"):
        played(case_of(), tmp_path / "run", pool, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FednPartialError, match="contains no shards"):
        played(case_of(), tmp_path / "run", pool, tmp_path / "empty")


# What must not be mixed up


def test_a_round_in_which_everybody_is_late_makes_no_model(profile, pool, data, tmp_path):
    simulation = with_devices(profile, straggler=1.0, slowdown=1000.0)
    case = case_of(simulation=simulation, session={"rounds": 2, "round_timeout": 60}, codec="float32")
    final, rows = played(case, tmp_path / "run", pool, data)
    assert final["failed_rounds"] == 2 and final["problem"] == "its last round failed"
    assert all(row.outcome_text().startswith("skipped: late,") for row in rows) and len(rows) == 8


def test_a_fleets_run_is_not_written_over(pool, data, tmp_path):
    case = case_of()
    folder = RunFolder(tmp_path / "run", case)
    (folder.path / "rounds.jsonl").write_text('{"fedn_round": "1", "client": "a"}\n')
    with pytest.raises(FednPartialError, match="contains a run that is not simulated"):
        played(case, folder.path, pool, data)
    assert (folder.path / "rounds.jsonl").read_text()


def copy_of_run(whole, tmp_path):
    """A run whose 4 rounds are over, but that was stopped before it wrote its final metrics."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    session = json.loads((folder / "session.json").read_text())
    (folder / "session.json").write_text(json.dumps({**session, "final": {}}))
    return folder


def test_a_run_does_not_go_on_with_other_data(whole, pool, data, tmp_path):
    folder = copy_of_run(whole, tmp_path)
    other = tmp_path / "data"
    shutil.copytree(data, other)
    write_shard(other / "client-2", open_shard(data / "client-1"), "made up")
    with pytest.raises(FednPartialError, match=r"other settings \(data\)"):
        played(case_of(simulation={"dropout": 0.3}), folder, pool, other)


def test_data_that_are_not_what_their_description_says_are_refused(pool, data, tmp_path):
    other = tmp_path / "data"
    shutil.copytree(data, other)
    labels = np.load(other / "client-3" / "y_train.npy")
    np.save(other / "client-3" / "y_train.npy", labels[::-1])
    with pytest.raises(FednPartialError, match=r"client-3/y_train\.npy is missing or does not match its checksum"):
        played(case_of(), tmp_path / "run", pool, other)


def test_rows_that_are_gone_are_not_passed_over(whole, pool, data, tmp_path):
    folder = copy_of_run(whole, tmp_path)
    (folder / "rounds.jsonl").unlink()
    with pytest.raises(FednPartialError, match="has 0 bytes"):
        played(case_of(simulation={"dropout": 0.3}), folder, pool, data)


def test_a_damaged_model_is_named(whole, pool, data, tmp_path):
    folder = copy_of_run(whole, tmp_path)
    (folder / "model-4.npz").write_bytes((folder / "model-4.npz").read_bytes()[:1000])
    with pytest.raises(FednPartialError, match=r"model-4\.npz is missing or damaged"):
        played(case_of(simulation={"dropout": 0.3}), folder, pool, data)


def test_two_processes_do_not_share_a_folder(pool, data, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(FednPartialError, match="another process is running this simulation"):
            played(case_of(), folder, pool, data)


def test_where_no_client_can_train_it_does_not_begin_or_ends_and_says_why(pool, data, tmp_path, monkeypatch):
    case = case_of(model={"name": "lstm_har", "classes": 5}, session={"rounds": 3})
    with pytest.raises(
        FednPartialError, match="no client can train: the data have 10 classes, the model has 5 outputs"
    ):
        played(case, tmp_path / "run", pool, data)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(simulation, "check_data", lambda case, shards: None)  # as if the data changed afterwards
    with pytest.raises(FednPartialError, match="no client can train; the first refused: the data have 10 classes"):
        played(case, tmp_path / "run", pool, data)


def test_a_layer_that_the_model_does_not_have_is_named_before_the_first_round(pool, data, tmp_path):
    selection = {"selector": "random", "layers": 2, "always_train": ["dens"]}
    with pytest.raises(FednPartialError, match="no layer called 'dens'"):
        played(case_of(selection=selection), tmp_path / "run", pool, data)
    assert not (tmp_path / "run").exists()


def test_a_profile_with_another_batch_size_is_refused(profile, pool, data, tmp_path):
    content = json.loads((profile / "profile.json").read_text())
    content["settings"]["training"] = {"batch_size": 4, "optimizer": "adam"}
    (profile / "profile.json").write_text(json.dumps(content))
    with pytest.raises(FednPartialError, match="was measured with batch_size 4, not 32"):
        played(case_of(simulation=with_devices(profile)), tmp_path / "run", pool, data)


def test_more_layers_than_were_measured_cost_more():
    device = DeviceTiming(1.0, (1, 2), (0.1, 0.2), (None, None), None, None, None)
    assert device.seconds(6, 100, 0, 0) == pytest.approx((61.0, 60.0))
    assert device.ram_mb(3) is None
    assert DeviceTiming(1.0, (1, 3), (0.1, 0.2), (100.0, 120.0), None, None, None).ram_mb(2) == 110.0
