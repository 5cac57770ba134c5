"""What devices do on a real network when FEDn's active compute package changes."""

import tarfile

from conftest import make_case
from test_session import Run

from fedn_partial.seed_model.package import upload_package

SESSION = {"rounds": 1, "round_timeout": 60, "min_clients": 3}


def activate(running, folder, command):
    """Upload a package whose train is `command`, past our own checks."""
    with tarfile.open(running.fleet.folder.parent / "package.tgz") as archive:
        archive.extractall(folder / "package", filter="data")
    path = folder / "package" / "fedn.yaml"
    path.write_text(path.read_text().replace("command: python3 train.py", command))
    with tarfile.open(folder / "bad.tgz", "w:gz") as archive:
        archive.add(folder / "package", arcname=".")
    with (folder / "bad.tgz").open("rb") as file:
        form = {"helper": "numpyhelper", "name": "bad", "description": "bad"}
        running.api.post("packages/", files={"file": ("bad.tgz", file)}, data=form)


def outcomes(running, folder, name):
    run = Run(running, folder, make_case(name=name, session=SESSION))
    return [row["outcome"] for row in run.rows()]


def test_devices_name_a_package_that_they_cannot_run_and_fetch_the_next_by_themselves(running, tmp_path):
    processes = {name: process.pid for name, process in running.fleet.clients.items()}
    activate(running, tmp_path, "command: python3 no_such.py")
    refused = outcomes(running, tmp_path, "bad")
    assert len(refused) == 3
    for outcome in refused:
        assert "cannot run FEDn's compute package: entry point 'train' runs no_such.py" in outcome
    upload_package(running.api, running.fleet.folder.parent / "package.tgz")
    assert outcomes(running, tmp_path, "good") == ["sent"] * 3
    assert {name: process.pid for name, process in running.fleet.clients.items()} == processes
    assert all(process.is_running() for process in running.fleet.clients.values())
    assert not list(running.fleet.folder.glob("*/tmp/*")), "temporary files are left behind"
