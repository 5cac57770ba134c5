"""Sessions on a real FEDn network: what is committed, what is written down, and what happens when parts fail."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import sqlite3
import sys
import threading
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest
import requests
import yaml
from click.testing import CliRunner
from conftest import Run, committed_model, make_case, wait_until
from server_functions.merging import assert_merged, kept_updates

from fedn_partial.client.commands.cli import main
from fedn_partial.client.fedn_api.api import Api, ApiError
from fedn_partial.client.fleet import processes
from fedn_partial.client.follow.collect import collect
from fedn_partial.errors import FednPartialError
from fedn_partial.seed_model import server_state
from fedn_partial.seed_model.seed import newest_model

# A session without server functions, as FEDn's own client starts it.
OTHER = {
    "name": "stock",
    "session_config": {
        "aggregator": "fedavg",
        "round_timeout": 10,
        "rounds": 1,
        "buffer_size": -1,
        "delete_models_storage": True,
        "clients_required": 1,
        "validate": True,
        "helper_type": "numpyhelper",
    },
}


@pytest.fixture(scope="module")
def finished(running, tmp_path_factory):
    return Run(running, tmp_path_factory.mktemp("run"), make_case())


def test_the_committed_models_are_what_the_merge_rule_gives_for_the_updates(running, finished, tmp_path):
    """all_clients, written out in numpy: W + sum n_k (W_k - W) / n; pooled variances; nobody's layers bit-equal."""
    assert len(finished.rounds()) == 4
    untouched = 0
    for round_ in finished.rounds():
        before = committed_model(running, round_.model, tmp_path)
        after = committed_model(running, round_.new_model, tmp_path)
        updates = kept_updates(running.updates, before)
        assert len(updates) == 3
        untouched += assert_merged(finished.layers, before, after, updates)
    assert untouched > 0, "no layer was left out in any round, so the test saw nothing of that"


def test_every_row_says_what_happened_and_what_it_cost(finished):
    rows = finished.rows()
    assert [(row["round"], row["client"]) for row in sorted(rows, key=lambda r: (r["round"], r["client"]))] == [
        (number, f"client-{k}") for number in (1, 2, 3, 4) for k in (1, 2, 3)
    ]
    for row in rows:
        expected = 14 if row["round"] == 1 else 4
        assert len(row["layers"]) == expected and row["warmup"] == (row["round"] == 1)
        assert "dense" in row["layers"]
        assert row["outcome"] == ("sent" if row["round"] == 4 else "merged")
        assert row["num_examples"] == 479 and row["test_examples"] == 120
        assert 0 < row["train_seconds"] < row["round_seconds"]
        for key in ("cpu_percent", "rss_peak_mb", "ram_used_mb", "ram_percent", "accuracy", "loss", "download_bytes"):
            assert row[key] > 0, key


def test_upload_is_the_trained_tensors_plus_at_most_1_percent_and_8_kb(finished):
    for row in finished.rows():
        trained = 4 * row["trained_params"]
        assert trained < row["upload_bytes"] <= 1.01 * trained + 8192


def test_session_file_holds_settings_versions_and_the_result(finished):
    session = json.loads((finished.folder.path / "session.json").read_text())
    assert session["settings"]["selection"]["layers"] == 4
    assert session["versions"]["fedn"].startswith("0.33")
    assert session["final"]["problem"] is None
    assert session["final"]["upload_bytes"] == sum(row["upload_bytes"] for row in finished.rows())


def test_its_figures_come_home_from_fedn_alone(running, finished, tmp_path):
    """By its name: the same rows as those written while it ran, the settings that it was started with."""
    path = collect(running.api, "e2e", tmp_path)
    rows = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and rows == finished.rows()
    home, there = (json.loads((folder / "session.json").read_text()) for folder in (path, finished.folder.path))
    assert home["final"] == there["final"] and home["layers"] == there["layers"]
    assert home["settings"] == {**there["settings"], "data": None}
    with pytest.raises(FednPartialError, match="FEDn has no session called 'other'; its newest are e2e"):
        collect(running.api, "other", tmp_path)


def test_a_session_of_another_make_is_refused(running, tmp_path):
    raw = {**OTHER, "session_config": {**OTHER["session_config"], "model_id": newest_model(running.api)}}
    running.api.post("sessions/", json=raw)
    with pytest.raises(FednPartialError, match="session 'stock' was not started by this version of fedn-partial"):
        collect(running.api, "stock", tmp_path)


def test_a_second_session_is_refused_by_whichever_of_fedns_processes_is_asked(running, tmp_path):
    """FEDn knows a running session only in the process that it runs in, and would replace its server functions."""
    answers = []
    config = {**OTHER["session_config"], "model_id": newest_model(running.api)}
    other = {**OTHER, "session_config": config}

    def start_beside(poller):
        wait_until(lambda: poller.rounds)
        for number in range(10):
            api = Api(running.network.url)  # a connection of its own: each may reach another process
            session = api.post("sessions/", json={**other, "name": f"beside-{number}"})["session_id"]
            try:
                answers.append(api.post("sessions/start", json={"session_id": session, "rounds": 1}))
            except ApiError as error:
                answers.append(str(error))

    run = Run(running, tmp_path, make_case(session={"rounds": 3, "round_timeout": 40}), start_beside)
    assert len(answers) == 10 and all("A session is already running" in str(answer) for answer in answers), answers
    assert run.final["problem"] is None


def test_fedns_own_client_takes_part_with_the_same_file(running, tmp_path):
    """Plain 'fedn client start -in client.yaml', from a virtual environment that is not activated."""
    home = tmp_path / "stock client"
    shutil.copytree(running.fleet.folder / "client-1" / "data", home / "data")
    section = {"data": "data", "max_layers": 2, "training": {"batch_size": 16}}
    address = {"api_url": "http://127.0.0.1", "api_port": running.network.ports["controller"]}
    (home / "client.yaml").write_text(yaml.safe_dump({"name": "stock-1", **address, "fedn_partial": section}))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(sys._base_executable)  # one without TensorFlow
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path)}
    fedn = str(Path(sys.executable).with_name("fedn"))
    command = [fedn, "client", "start", "-in", "client.yaml"]
    process = processes.start(command, home / "client.log", environment, home, tied=True)
    try:
        assert wait_until(lambda: "stock-1" in online(running)), processes.tail(home / "client.log", 40)
        case = make_case(session={"rounds": 2, "round_timeout": 60, "min_clients": 4})
        run = Run(running, tmp_path, case)
    finally:
        processes.stop([process])
    rows = {row["round"]: row for row in run.rows() if row["client"] == "stock-1"}
    assert set(rows) == {1, 2}, processes.tail(home / "client.log", 40)
    for row in rows.values():
        assert len(row["layers"]) == 2 and "dense" in row["layers"]
        assert (
            4 * row["trained_params"] < row["upload_bytes"] <= 4.04 * row["trained_params"] + 24_000
        )  # it sends settings back
        assert row["accuracy"] is not None
    assert rows[1]["outcome"] == "merged"


def online(running) -> set[str]:
    return {client["name"] for client in running.api.get("clients/", params={"status": "online"})["result"]}


def test_the_session_goes_on_when_a_client_is_killed_in_mid_round(running, tmp_path, capsys):
    victim = running.fleet.clients["client-3"]
    family = []

    def kill(poller):
        wait_until(lambda: any(r.over for r in poller.rounds.values()))
        wait_until(lambda: any("train.py" in " ".join(p.cmdline()) for p in children_of(victim)))
        package = str(running.fleet.folder / "client-3" / "package")
        family.extend(p for p in psutil.process_iter() if working_folder(p) == package)
        os.kill(victim.pid, signal.SIGKILL)

    case = make_case(session={"rounds": 4, "round_timeout": 20, "min_clients": 1})
    run = Run(running, tmp_path, case, kill)
    assert family, "nothing ran in the client's package when it was killed"
    assert [round_.status for round_ in run.rounds()] == ["Finished"] * 4
    assert set(run.rounds()[-1].rows) == {"client-1", "client-2"}
    assert run.final["problem"] is None
    assert re.search(r"client-3  no answer after \d+ s \((offline; )?last seen in round 1\)", capsys.readouterr().out)
    assert wait_until(lambda: not any(p.is_running() and p.status() != "zombie" for p in family))


def children_of(process: psutil.Process) -> list[psutil.Process]:
    return process.children(recursive=True)


def working_folder(process: psutil.Process) -> str | None:
    try:
        return process.cwd()
    except psutil.Error:
        return None


def test_updates_in_8_bits_and_a_model_in_16_travel_through_fedn(running, tmp_path):
    session = {"rounds": 3, "round_timeout": 40, "min_clients": 1}
    run = Run(running, tmp_path, make_case(codec="int8", model_dtype="float16", session=session))
    rows = run.rows()
    assert len(rows) >= 3 and {row["outcome"] for row in rows} <= {"merged", "sent"}
    for row in rows:
        assert row["upload_bytes"] < 0.3 * 4 * row["trained_params"] + 8192
    model = committed_model(running, run.rounds()[-1].new_model, tmp_path)
    assert {str(array.dtype) for array in model if array.ndim > 1} == {"float16"}
    assert {str(array.dtype) for array in model if array.ndim < 2} == {"float32"}
    # The first round's model came as float32, and all later ones as float16; one to train and one to validate.
    later = rows[-1]["download_bytes"] / 2
    assert later < 0.6 * (rows[0]["download_bytes"] - later)
    assert rows[-1]["loss"] is not None


@pytest.fixture
def started(running, tmp_path, monkeypatch):
    """Give 'session start' for a case whose session differs so; returns what it exits with and prints."""
    monkeypatch.chdir(tmp_path)

    def start(**session):
        case = make_case(session={"rounds": 1, "round_timeout": 40, **session})
        (tmp_path / "case.yaml").write_text(yaml.safe_dump(dataclasses.asdict(case)))
        result = CliRunner().invoke(main, ["session", "start", "case.yaml", "--api-url", running.network.url])
        return result.exit_code, result.output

    return start


def statuses(running) -> Counter:
    return Counter(session["status"] for session in running.api.get("sessions/")["result"])


def database(running, statement: str, *values) -> None:
    with contextlib.closing(sqlite3.connect(running.network.folder / "fedn.db")) as connection, connection:
        connection.execute(statement, values)


def test_a_session_that_cannot_start_leaves_nothing(running, started, tmp_path, monkeypatch):
    before = statuses(running)
    code, output = started(min_clients=9)
    assert code == 2 and "session: min_clients is 9, but " in output and "online: client-1, client-2" in output
    (own,) = running.api.get("combiners/")["result"]
    columns = "name, parent, address, fqdn, ip, port, committed_at, updated_at"
    database(running, f"INSERT INTO combiners (id, {columns}) SELECT 'dead', 'old' || {columns} FROM combiners")
    try:
        code, output = started()
        assert code == 2 and f"FEDn has 2 combiners ({own['name']}, id {own['combiner_id']}; old{own['name']}" in output
    finally:
        url = re.search(r"DELETE (\S+)/ID", output)[1]
        assert requests.delete(f"{url}/dead", timeout=10).status_code == 200
    assert statuses(running) == before and not list(tmp_path.glob("runs/*"))

    monkeypatch.setattr(server_state, "check_clients", lambda api, wanted: None)  # as if one had just left
    code, output = started(min_clients=9)
    assert code == 2 and "Number of available clients is lower than the required minimum of 9" in output
    assert statuses(running) == before + Counter(Terminated=1) and not list(tmp_path.glob("runs/*"))


def test_a_running_session_is_named_and_a_dead_one_is_passed_over(running, started):
    refusals = []

    def start_beside():
        wait_until(lambda: statuses(running)["Started"])
        try:
            server_state.check_idle(running.api)
        except FednPartialError as error:
            refusals.append(str(error))

    helper = threading.Thread(target=start_beside, daemon=True)
    helper.start()
    log = running.network.log("combiner")
    accepted = log.read_text().count("set function provider response")
    code, output = started()
    assert code == 0, output
    helper.join(60)
    (session,) = re.findall(r"^session (\S+)", output, re.MULTILINE)
    assert len(refusals) == 1 and re.search(rf"session 'e2e' \({session}\) is running, in round [01] of 1", refusals[0])
    # Its own, from the controller; this network gives other sessions FEDn's own by itself, and takes none from us.
    assert log.read_text().count("set function provider response") == accepted + 1
    assert "keeps this session's server functions" not in output
    (written,) = Path("runs").glob("*/session.json")
    assert json.loads(written.read_text())["settings"]["data"] is None  # the case's are not the devices'

    running.api.patch(f"sessions/{session}", json={"status": "Started"})
    code, output = started()
    assert code == 2 and f"session 'e2e' ({session}) is running, in round 1 of 1" in output
    hour_ago = datetime.now() - timedelta(hours=1)
    of_session = "round_config_id IN (SELECT id FROM round_configs WHERE session_id = ?)"
    for layers, condition in (("sessions", "id = ?"), ("rounds", of_session)):
        statement = f"UPDATE {layers} SET committed_at = ?, updated_at = ? WHERE {condition}"
        database(running, statement, str(hour_ago), str(hour_ago), session)
    said = []
    server_state.check_idle(running.api, said.append)
    assert len(said) == 1 and re.search("is 'Started', but has not changed for (59|60) min", said[0])
