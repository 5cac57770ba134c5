"""A hundred clients on a real FEDn network: every row of theirs is there, in time and after the event."""

import itertools
import json

import pytest
from conftest import make_case
from light_clients import LightClient, take_part

from fedn_partial.client import progress
from fedn_partial.client.collect import collect
from fedn_partial.client.fleet import wait_until_online
from fedn_partial.client.network import Network
from fedn_partial.client.runs import RunFolder
from fedn_partial.client.watch import Watcher
from fedn_partial.seed_model.api import Api
from fedn_partial.seed_model.package import build_package, upload_package
from fedn_partial.seed_model.seed import build_seed, upload_seed
from fedn_partial.seed_model.session import start_session

CLIENTS, ROUNDS = 100, 2


@pytest.fixture
def api(tmp_path):
    network = Network(tmp_path / "network")
    try:
        network.up(tied=True)
        yield Api(network.url)
    finally:
        network.down()


def test_every_row_of_100_clients_is_there(api, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "POLL", 0.05)  # the more looks, the more rows come in between that FEDn dated before
    case = make_case(session={"rounds": ROUNDS, "round_timeout": 60, "min_clients": CLIENTS})
    build_package(tmp_path / "package.tgz")
    upload_package(api, tmp_path / "package.tgz")
    build_seed(case, tmp_path / "seed.npz")
    upload_seed(api, tmp_path / "seed.npz")
    names = [f"light-{number}" for number in range(1, CLIENTS + 1)]
    clients = [LightClient(api.connection.base_url, name, on_request=take_part) for name in names]
    try:
        for client in clients:
            client.connect()
        wait_until_online(api, set(names), lambda: None, 60, tmp_path)
        session_id, table = start_session(api, case)
        folder = RunFolder(tmp_path / "run", case)
        final = progress.follow(Watcher(api, session_id), case, table, folder)
        assert [client.errors for client in clients if client.errors] == []
    finally:
        for client in clients:
            client.disconnect()
    assert final["problem"] is None
    home = collect(api, "e2e", tmp_path / "collected")
    for path in (folder.path, home):
        rows = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
        expected = set(itertools.product(range(1, ROUNDS + 1), names))
        assert {(row["round"], row["client"]) for row in rows} == expected
        assert len(rows) == CLIENTS * ROUNDS
        assert {row["outcome"] for row in rows if row["round"] < ROUNDS} == {"merged"}
        assert {row["accuracy"] for row in rows} == {0.5}
