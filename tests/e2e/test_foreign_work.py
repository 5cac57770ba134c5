"""Somebody else's compute package on the same network, with FEDn's own client: before, beside and after our session."""

import io
import sys
import tarfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import Run, committed_model, make_case, wait_until

from fedn_partial.client.fedn_api.api import ApiError
from fedn_partial.client.fleet import processes
from fedn_partial.seed_model.package import upload_package
from fedn_partial.seed_model.seed import build_seed, newest_model, upload_seed

PACKAGE = {
    "fedn.yaml": """
        entry_points:
          train: {command: python3 train.py}
          validate: {command: python3 validate.py}
        """,
    "train.py": """
        import json, sys
        import numpy as np
        with np.load(sys.argv[1]) as model, open(sys.argv[2], "wb") as file:
            np.savez_compressed(file, **{name: model[name] + 1 for name in model.files})
        with open(sys.argv[2] + "-metadata", "w") as file:
            json.dump({"num_examples": 10}, file)
        """,
    "validate.py": """
        import json, sys
        with open(sys.argv[2], "w") as file:
            json.dump({"accuracy": 0.5, "loss": 1.0}, file)
        """,
}


@pytest.fixture(scope="module")
def foreign(running, tmp_path_factory):
    """The package is uploaded, and FEDn's own client runs it."""
    folder = tmp_path_factory.mktemp("foreign")
    with tarfile.open(folder / "foreign.tgz", "w:gz") as archive:
        for name, text in PACKAGE.items():
            data = textwrap.dedent(text).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with (folder / "foreign.tgz").open("rb") as file:
        form = {"helper": "numpyhelper", "name": "foreign", "description": "adds 1"}
        running.api.post("packages/", files={"file": ("foreign.tgz", file)}, data=form)
    address = {"api_url": "http://127.0.0.1", "api_port": running.network.ports["controller"]}
    (folder / "client.yaml").write_text(yaml.safe_dump({"name": "stock", **address}))
    bin = Path(sys.executable).parent
    environment = {"PATH": f"{bin}:/usr/bin:/bin", "HOME": str(folder)}
    command = [str(bin / "fedn"), "client", "start", "-in", "client.yaml"]
    process = processes.start(command, folder / "client.log", environment, folder, tied=True)
    online = {"status": "online"}
    try:
        clients = running.api.get
        assert wait_until(lambda: "stock" in {c["name"] for c in clients("clients/", params=online)["result"]})
        yield folder
    finally:
        processes.stop([process])


def upload_model(running, folder: Path, value: float) -> str:
    np.savez(folder / "model.npz", **{"0": np.full((3, 2), value, np.float32), "1": np.full(4, value, np.float32)})
    return upload_seed(running.api, folder / "model.npz")


def start(running, model: str, rounds: int = 2) -> str:
    """Start a session as FEDn's own API client does, without server functions."""
    config = {
        "aggregator": "fedavg",
        "round_timeout": 30,
        "rounds": rounds,
        "buffer_size": -1,
        "model_id": model,
        "delete_models_storage": True,
        "clients_required": 1,
        "validate": True,
        "helper_type": "numpyhelper",
    }
    body = {"name": "foreign", "seed_model_id": model, "session_config": config}
    session = running.api.post("sessions/", json=body)["session_id"]
    running.api.post("sessions/start", json={"session_id": session, "rounds": rounds, "round_timeout": 30})
    return session


def finished_model(running, session: str, folder: Path) -> list[np.ndarray]:
    assert wait_until(lambda: running.api.get(f"sessions/{session}")["status"] == "Finished", 90)
    return committed_model(running, newest_model(running.api), folder)


def test_each_session_is_played_by_its_own_rules(running, foreign, tmp_path):
    before = finished_model(running, start(running, upload_model(running, foreign, 1.0)), tmp_path)
    assert [np.unique(array).tolist() for array in before] == [[3.0], [3.0]]

    upload_package(running.api, running.folder / "package.tgz")
    build_seed(make_case(), tmp_path / "seed.npz")
    upload_seed(running.api, tmp_path / "seed.npz")
    refused = []

    def start_beside(poller):
        wait_until(lambda: poller.rounds)
        try:
            start(running, newest_model(running.api))
        except ApiError as error:
            refused.append(str(error))

    case = make_case(session={"rounds": 3, "round_timeout": 60, "min_clients": 4})
    run = Run(running, tmp_path, case, start_beside)
    assert run.final["problem"] is None
    for round_ in run.rounds()[:-1]:
        merged = {name for name, row in round_.rows.items() if row.outcome_text() == "merged"}
        assert merged == {"client-1", "client-2", "client-3"}
        assert round_.rows["stock"].outcome_text().startswith("skipped: ")
    assert len(refused) == 1 and "A session is already running" in refused[0]

    after = finished_model(running, start(running, upload_model(running, foreign, 5.0)), tmp_path)
    assert [np.unique(array).tolist() for array in after] == [[7.0], [7.0]]
