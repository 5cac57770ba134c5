"""What devices do on a real network when FEDn's active compute package changes."""

import tarfile

from conftest import Run, make_case, wait_until

from fedn_partial.seed_model.package import upload_package

SESSION = {"rounds": 8, "round_timeout": 60, "min_clients": 3}


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


def test_devices_name_a_package_that_they_cannot_run_and_fetch_the_next_by_themselves(running, tmp_path):
    processes = {name: process.pid for name, process in running.fleet.clients.items()}

    def exchange(poller):
        wait_until(lambda: any(round_.over for round_ in poller.rounds.values()))
        activate(running, tmp_path, "command: python3 no_such.py")
        wait_until(lambda: sum(len(refused(round_)) for round_ in poller.rounds.values()) >= 3)
        upload_package(running.api, running.fleet.folder.parent / "package.tgz")

    run = Run(running, tmp_path, make_case(name="packages", session=SESSION), exchange)
    told = [outcome for round_ in run.rounds() for outcome in refused(round_)]
    assert len(told) >= 3
    for outcome in told:
        assert "cannot run FEDn's compute package: entry point 'train' runs no_such.py" in outcome
    assert {row.outcome_text() for row in run.rounds()[-1].rows.values()} == {"sent"}
    assert len(run.rounds()[-1].rows) == 3
    assert {name: process.pid for name, process in running.fleet.clients.items()} == processes
    assert all(process.is_running() for process in running.fleet.clients.values())
    assert not list(running.fleet.folder.glob("*/tmp/*")), "temporary files are left behind"


def refused(round_) -> list[str]:
    return [row.outcome_text() for row in round_.rows.values() if row.outcome_text().startswith("refused")]
