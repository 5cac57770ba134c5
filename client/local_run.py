"""A whole session on this machine: network, package, seed model, clients, rounds; and everything stopped again."""

from __future__ import annotations

import signal
import time

from fedn_partial.client import progress
from fedn_partial.client.fleet import Fleet
from fedn_partial.client.network import Network
from fedn_partial.client.runs import RunFolder
from fedn_partial.client.watch import Watcher
from fedn_partial.seed_model.api import Api
from fedn_partial.seed_model.package import build_package, upload_package
from fedn_partial.seed_model.seed import build_seed, upload_seed
from fedn_partial.seed_model.session import start_session
from fedn_partial.settings import Case


def run(case: Case, folder: RunFolder) -> dict:
    """Run `case` on this machine and return its final metrics.

    Raises
    ------
    FednPartialError : something did not come up, or the session is stuck. What was started is stopped all the same.
    """
    started = time.monotonic()
    network = Network(folder.path / "network")
    fleet = Fleet(folder.path / "clients")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        network.up(tied=True)
        api = Api(network.url)
        print("building compute package and seed model", flush=True)
        package, seed = folder.path / "package.tgz", folder.path / "seed.npz"
        build_package(package)
        upload_package(api, package)
        print(f"starting {case.data.clients} clients", flush=True)
        fleet.prepare(case, network.url)
        fleet.start()
        build_seed(case, seed)
        upload_seed(api, seed)
        fleet.wait_until_connected(api)
        session_id, table = start_session(api, case)
        folder.know_layers(table)
        watcher = Watcher(api, session_id)
        final = progress.follow(watcher, case, len(table), folder, check=network.check)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it running
        fleet.stop()
        network.down()
        signal.signal(signal.SIGINT, signal.default_int_handler)
    final["seconds"] = round(time.monotonic() - started, 1)
    folder.finish(final)
    return final


def _interrupt(*_):
    raise KeyboardInterrupt
