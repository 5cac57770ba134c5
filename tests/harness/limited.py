"""A session on a real FEDn network whose one client, FEDn's process and ours, lives in a memory-limited group."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import yaml
from cgroups import MemoryGroup

from fedn_partial.client.fedn_api.api import Api
from fedn_partial.client.fleet.fleet import Fleet
from fedn_partial.client.follow import progress
from fedn_partial.client.follow.poller import SessionPoller
from fedn_partial.client.network.network import Network
from fedn_partial.client.records.run_folder import RunFolder, new_folder
from fedn_partial.data.shard import Shard, write_shard
from fedn_partial.seed_model.package import build_package, upload_package
from fedn_partial.seed_model.seed import build_seed, upload_seed
from fedn_partial.seed_model.session import start_session
from fedn_partial.settings.case import Case


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a session: its rows, the group's peak of anonymous memory in bytes, and the kernel's kills."""

    rows: list[dict]
    peak: int
    kills: int


def run_limited(folder: Path, case: Case, shard: Shard, limit: int) -> Outcome:
    """Run `case` with one client that has the shard and `limit` bytes of memory.

    Raises
    ------
    cgroups.NoControlGroup : this machine lets nobody make one here.
    """
    with MemoryGroup(limit) as group:
        network, fleet = Network(folder / "network"), Fleet(folder / "clients")
        try:
            network.up(tied=True)
            api = Api(network.url)
            build_package(folder / "package.tgz")
            upload_package(api, folder / "package.tgz")
            home = fleet.folder / "client-1"
            write_shard(home / "data", shard, "made up")
            config = {"name": "client-1", "api_url": network.url, "fedn_partial": {"data": "data"}}
            (home / "client.yaml").write_text(yaml.safe_dump(config))
            build_seed(case, folder / "seed.npz")
            upload_seed(api, folder / "seed.npz")
            fleet.start()
            group.add(fleet.clients["client-1"].pid)
            fleet.wait_until_connected(api)
            session_id, layers = start_session(api, case)
            run = RunFolder(new_folder(folder, case.name), case)
            progress.follow(SessionPoller(api, session_id), case, layers, run, check=network.supervise)
        finally:
            fleet.stop()
            network.down()
        rows = [json.loads(line) for line in (run.path / "rounds.jsonl").read_text().splitlines()]
        return Outcome(rows, group.peak, group.kills())
