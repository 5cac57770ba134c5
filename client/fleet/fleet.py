"""A fleet of FEDn clients on this machine, each a process of its own with its own folder, shard and client.yaml."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml

from fedn_partial.client.fedn_api.api import Api
from fedn_partial.client.fleet import processes
from fedn_partial.data.shard import Shard, write_shard
from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import write_text

READY_TIMEOUT = 120  # seconds


class Fleet:
    """The clients of a local run; each has a folder of its own below `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.clients: dict[str, psutil.Process] = {}

    def prepare(self, origin: str, shards: list[Shard], url: str) -> None:
        """Write each client's shard, and its client.yaml for the controller at `url`.

        Parameters
        ----------
        origin, shards : as ``fedn_partial.client.data.data_sets.partition_case`` returns them.
        """
        for number, shard in enumerate(shards, start=1):
            home = self.folder / f"client-{number}"
            write_shard(home / "data", shard, origin)
            config = {"name": home.name, "api_url": url, "fedn_partial": {"data": "data"}}
            write_text(home / "client.yaml", yaml.safe_dump(config, sort_keys=False))

    def start(self) -> None:
        """Start a process for every prepared client; they end with this process."""
        environment = {**os.environ, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        for home in sorted(self.folder.iterdir()):
            command = [sys.executable, "-m", "fedn_partial.client", "client", "start", "--config", "client.yaml"]
            self.clients[home.name] = processes.start(command, home / "client.log", environment, home, tied=True)

    def wait_until_connected(self, api: Api) -> None:
        """Wait until FEDn counts every client as connected.

        Raises
        ------
        FednPartialError : a client ended, or they are not connected in time.
        """

        def check():
            for name, process in self.clients.items():
                processes.check_alive(process, name, self.folder / name / "client.log")

        wait_until_online(api, set(self.clients), check, READY_TIMEOUT, self.folder)

    def stop(self) -> None:
        """Stop every client."""
        processes.stop(list(self.clients.values()))


def wait_until_online(api: Api, names: set[str], check: Callable[[], None], timeout: float, folder: Path) -> None:
    """Wait until FEDn counts the clients called `names` as connected.

    Parameters
    ----------
    check : called at every look; what it raises ends the waiting. timeout : seconds. folder : of their logs.

    Raises
    ------
    FednPartialError : they are not connected in time.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        check()
        online = api.get("clients/", params={"status": "online"})["result"]
        if {client["name"] for client in online} >= names:
            return
        time.sleep(0.5)
    raise FednPartialError(f"not all clients are connected after {timeout} s; see the client.log files in {folder}")
