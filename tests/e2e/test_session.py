"""Sessions on a real FEDn network: what is committed, what is written down, and what happens when parts fail."""

import itertools
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from conftest import make_case
from fedn import APIClient
from fedn.utils.helpers.plugins.numpyhelper import Helper

from fedn_partial import models, update
from fedn_partial.client import processes, progress
from fedn_partial.client.collect import collect
from fedn_partial.client.runs import RunFolder, new_folder
from fedn_partial.client.watch import Watcher
from fedn_partial.errors import FednPartialError
from fedn_partial.layers import layer_table
from fedn_partial.seed_model.seed import newest_model
from fedn_partial.seed_model.session import start_session


class Run:
    """One session, followed to its end."""

    def __init__(self, running, tmp_path: Path, case, meanwhile=lambda watcher: None):
        session_id, self.table = start_session(running.api, case)
        self.watcher = Watcher(running.api, session_id)
        self.folder = RunFolder(new_folder(tmp_path, case.name), case)
        helper = threading.Thread(target=meanwhile, args=(self.watcher,), daemon=True)
        helper.start()
        self.final = progress.follow(self.watcher, case, self.table, self.folder)
        helper.join(timeout=60)

    def rows(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder.path / "rounds.jsonl").read_text().splitlines()]

    def rounds(self):
        return sorted(self.watcher.rounds.values(), key=lambda r: int(r.id))


def committed_model(running, model_id: str, tmp_path: Path) -> list[np.ndarray]:
    """Download a global model with FEDn's own client."""
    client = APIClient("127.0.0.1", running.network.ports["controller"])
    path = tmp_path / f"{model_id}.npz"
    assert client.download_model(model_id, str(path))["success"]
    return Helper().load(str(path))


def kept_updates(running, round_: int, base: str) -> list[tuple[dict, np.ndarray]]:
    """The updates that clients sent in a round, as they left train.py."""
    found = []
    for path in running.updates.glob("*.json"):
        metadata = json.loads(path.read_text())
        if metadata.get("round") == round_ and metadata.get("base") == base:
            with np.load(path.with_suffix(".npz")) as archive:
                found.append((metadata, archive["0"]))
    return found


@pytest.fixture(scope="module")
def finished(running, tmp_path_factory):
    return Run(running, tmp_path_factory.mktemp("run"), make_case())


def test_the_committed_models_are_what_the_merge_rule_gives_for_the_updates(running, finished, tmp_path):
    """all_clients, written out in numpy: W + sum n_k (W_k - W) / n; pooled variances; nobody's layers bit-equal."""
    table = layer_table(models.build(make_case().model))
    assert len(finished.rounds()) == 4
    untouched = 0
    for number, round_ in enumerate(finished.rounds(), start=1):
        before = committed_model(running, round_.model, tmp_path)
        after = committed_model(running, round_.new_model, tmp_path)
        updates = kept_updates(running, number, update.digest(before))
        assert len(updates) == 3
        n = [int(metadata["num_examples"]) for metadata, _ in updates]
        full = []  # every client's whole model, untrained layers as they were
        for metadata, values in updates:
            model, position = list(before), 0
            for layer in table:
                for tensor in layer.tensors if layer.name in metadata["layers"] else ():
                    model[tensor.index] = values[position : position + tensor.size].reshape(tensor.shape)
                    position += tensor.size
            assert position == len(values)
            full.append(model)
        for layer in table:
            if not any(layer.name in metadata["layers"] for metadata, _ in updates):
                untouched += 1
                for tensor in layer.tensors:
                    assert before[tensor.index].tobytes() == after[tensor.index].tobytes(), tensor.name
                continue
            for tensor in layer.tensors:
                values = [model[tensor.index].astype(np.float64) for model in full]
                if tensor.name.endswith("moving_variance"):
                    means = [model[tensor.index - 1].astype(np.float64) for model in full]
                    moments = [v + m * m for v, m in zip(values, means, strict=True)]
                    expected = np.average(moments, axis=0, weights=n) - np.average(means, axis=0, weights=n) ** 2
                else:
                    expected = np.average(values, axis=0, weights=n)
                np.testing.assert_allclose(after[tensor.index], expected, rtol=1e-5, atol=1e-6, err_msg=tensor.name)
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
    raw = {
        "name": "stock",
        "session_config": {
            "aggregator": "fedavg",
            "round_timeout": 10,
            "rounds": 1,
            "buffer_size": -1,
            "model_id": newest_model(running.api),
            "delete_models_storage": True,
            "clients_required": 1,
            "validate": True,
            "helper_type": "numpyhelper",
        },
    }
    running.api.post("sessions/", json=raw)
    with pytest.raises(FednPartialError, match="session 'stock' was not started by this version of fedn-partial"):
        collect(running.api, "stock", tmp_path)


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


def test_hooks_down_fails_the_round_and_the_session_goes_on_from_the_last_good_model(running, tmp_path):
    seen = {}

    def stop_and_start_hooks(watcher):
        wait_until(lambda: any(r.over for r in watcher.rounds.values()))
        running.network.stop_process("hooks")
        wait_until(lambda: any(r.failed for r in watcher.rounds.values()))
        running.network.start_process("hooks", tied=False)
        seen["restarted"] = True

    case = make_case(session={"rounds": 7, "round_timeout": 40, "min_clients": 1})
    run = Run(running, tmp_path, case, stop_and_start_hooks)
    assert seen["restarted"]
    statuses = [round_.status for round_ in run.rounds()]
    assert "Failed" in statuses and statuses[0] == statuses[-1] == "Finished"
    good = [round_ for round_ in run.rounds() if round_.status == "Finished"]
    for earlier, later in itertools.pairwise(good):
        assert later.model == earlier.new_model, "a model was committed by a round that failed"
    counted = [round_.number for round_ in good]
    assert counted == sorted(set(counted)), "the restarted hooks process began to count anew"
    assert good[-1].warmup is False
    first, last = (committed_model(running, r.new_model, tmp_path) for r in (good[0], good[-1]))
    assert [a.shape for a in first] == [a.shape for a in last]
    assert all(np.isfinite(a).all() for a in last)
    failed = next(round_ for round_ in run.rounds() if round_.failed)
    assert all(row.outcome.startswith(("refused", "round failed")) for row in failed.rows.values())


def test_the_session_goes_on_when_a_client_is_killed_in_mid_round(running, tmp_path):
    victim = running.fleet.clients["client-3"]
    family = []

    def kill(watcher):
        wait_until(lambda: any(r.over for r in watcher.rounds.values()))
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
    assert wait_until(lambda: not any(p.is_running() and p.status() != "zombie" for p in family))


def wait_until(condition, seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return True
        except (psutil.Error, RuntimeError):
            pass
        time.sleep(0.1)
    return False


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
