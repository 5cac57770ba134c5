"""Run a whole session on this machine: network, compute package, seed model, clients and rounds."""

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
from fedn_partial.settings.case import Case, with_max_examples


def run(case: Case, folder: RunFolder, origin: str, shards: list[Shard], on_event=lambda event: None) -> dict:
    """Run `case` on this machine and return its final metrics.

    Parameters
    ----------
    origin, shards : see ``fedn_partial.client.data.data_sets.partition_case``.
    on_event : called with each round as a dict, see ``fedn_partial.client.follow.progress``.

    Raises
    ------
    FednPartialError : a process did not start, or the session is stuck. All started processes are stopped.
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
            limited = with_max_examples(case, (len(shard.y_train) for shard in shards))
            session_id, layers = start_session(api, limited)
            poller = SessionPoller(api, session_id)
            final = progress.follow(poller, case, layers, folder, check=network.supervise, on_event=on_event)
        finally:
            with uninterrupted():
                fleet.stop()
    final["seconds"] = round(time.monotonic() - started, 1)
    folder.finish(final)
    return final


@contextmanager
def local_network(folder: Path, on_event=print):
    """Start a FEDn network below `folder`, upload the compute package, yield (network, API), and stop the network."""
    network = Network(folder / "network")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        network.up(tied=True, on_event=on_event)
        api = Api(network.url)
        package = folder / "package.tar.bz2"
        build_package(package, modules.active())
        upload_package(api, package)
        yield network, api
    finally:
        with uninterrupted():
            network.down()


def network_was_started(folder: Path) -> bool:
    """Return whether ``local_network`` has written logs below `folder`."""
    return (folder / "network" / "logs").exists()


@contextmanager
def uninterrupted():
    """Ignore SIGINT, so that a second Ctrl-C does not interrupt the shutdown."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _interrupt(*_):
    raise KeyboardInterrupt
