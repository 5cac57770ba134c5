"""A whole session on this machine: network, package, seed model, clients, rounds; and everything stopped again."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from pathlib import Path

from fedn_partial.client.fedn_api.api import Api
from fedn_partial.client.fleet.fleet import Fleet
from fedn_partial.client.follow import progress
from fedn_partial.client.follow.poller import SessionPoller
from fedn_partial.client.network.network import Network
from fedn_partial.client.records.run_folder import RunFolder
from fedn_partial.custom import modules
from fedn_partial.data.shard import Shard
from fedn_partial.seed_model.package import build_package, upload_package
from fedn_partial.seed_model.seed import build_seed, upload_seed
from fedn_partial.seed_model.session import start_session
from fedn_partial.settings.case import Case


def run(case: Case, folder: RunFolder, origin: str, shards: list[Shard], tell=lambda event: None) -> dict:
    """Run `case` on this machine and return its final metrics.

    Parameters
    ----------
    origin, shards : of the clients' data, as ``fedn_partial.client.data.data_sets.partition_case`` returns them.
    tell : called with each round as a dict, see fedn_partial.client.follow.progress.

    Raises
    ------
    FednPartialError : something did not come up, or the session is stuck. What was started is stopped all the same.
    """
    started = time.monotonic()
    fleet = Fleet(folder.path / "clients")
    with local_network(folder.path) as (network, api):
        try:
            print(f"starting {len(shards)} clients", flush=True)
            fleet.prepare(origin, shards, network.url)
            fleet.start()
            print("building seed model", flush=True)
            seed = folder.path / "seed.npz"
            build_seed(case, seed)
            upload_seed(api, seed)
            fleet.wait_until_connected(api)
            session_id, layers = start_session(api, case)
            poller = SessionPoller(api, session_id)
            final = progress.follow(poller, case, layers, folder, check=network.supervise, tell=tell)
        finally:
            with uninterrupted():
                fleet.stop()
    final["seconds"] = round(time.monotonic() - started, 1)
    folder.finish(final)
    return final


@contextmanager
def local_network(folder: Path, say=print):
    """Yield a FEDn network below `folder` that has our compute package, and its API; at the end it is stopped."""
    network = Network(folder / "network")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        network.up(tied=True, say=say)
        api = Api(network.url)
        package = folder / "package.tgz"
        build_package(package, modules.active())
        upload_package(api, package)
        yield network, api
    finally:
        with uninterrupted():
            network.down()


def network_was_started(folder: Path) -> bool:
    """Return whether ``local_network`` came so far in `folder` that there are logs to be read."""
    return (folder / "network" / "logs").exists()


@contextmanager
def uninterrupted():
    """Let no second Ctrl-C leave half of what is stopped here running."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(*_):
    raise KeyboardInterrupt
