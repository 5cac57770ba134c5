"""Run FEDn clients on this machine, each in a process and a folder of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml

from fedn_partial.client.fedn_api.api import Api
from fedn_partial.client.fleet import processes
from fedn_partial.client.fleet.waiting import wait_until
from fedn_partial.data.shard import Shard, write_shard
from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import write_text

READY_TIMEOUT = 120  # seconds


class Fleet:
    """The clients of a local run, one folder each below `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.clients: dict[str, psutil.Process] = {}

    def prepare(self, origin: str, shards: list[Shard], url: str) -> None:
        """Write each client's shard, and its client.yaml for the controller at `url`.

        Parameters
        ----------
        origin, shards : see ``fedn_partial.client.data.data_sets.partition_case``.
        """
        for number, shard in enumerate(shards, start=1):
            home = self.folder / f"client-{number}"
            write_shard(home / "data", shard, origin)
            config = {"name": home.name, "api_url": url, "fedn_partial": {"data": "data"}}
            write_text(home / "client.yaml", yaml.safe_dump(config, sort_keys=False))

    def start(self) -> None:
        """Start a process for each prepared client; they end with this process."""
        environment = {**os.environ, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        for home in sorted(self.folder.iterdir()):
            command = [sys.executable, "-m", "fedn_partial.client", "client", "start", "--config", "client.yaml"]
            self.clients[home.name] = processes.start(command, home / "client.log", environment, home, tied=True)

    def wait_until_connected(self, api: Api) -> None:
        """Wait until every client is online in FEDn.

        Raises
        ------
        FednPartialError : a client ended, or is not online in time.
        """

        def check():
            for name, process in self.clients.items():
                processes.check_alive(process, name, self.folder / name / "client.log")

        wait_until_online(api, set(self.clients), check, READY_TIMEOUT, self.folder)

    def stop(self) -> None:
        """Stop every client."""
        processes.stop(list(self.clients.values()))


def wait_until_online(api: Api, names: set[str], check: Callable[[], None], timeout: float, folder: Path) -> None:
    """Wait until the clients `names` are online in FEDn.

    Parameters
    ----------
    check : called before each request; its exceptions are passed on.
    timeout : seconds.
    folder : folder of the clients' logs.

    Raises
    ------
    FednPartialError : they are not online in time.
    """

    def are_online() -> bool:
        check()
        online = api.get("clients/", params={"status": "online"})["result"]
        return {client["name"] for client in online} >= names

    if not wait_until(are_online, timeout):
        raise FednPartialError(f"not all clients are online after {timeout} s; see the client.log files in {folder}")
