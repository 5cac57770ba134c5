"""Supervise the network in FOLDER until SIGTERM: ``python -m fedn_partial.client.network.supervisor FOLDER``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil

from fedn_partial.client.network.network import Network


def main() -> None:
    """Supervise the network and log what happens."""
    network = Network(Path(sys.argv[1]))
    network.load()
    network.supervisor = psutil.Process()  # may not be in the state file yet
    while True:
        for event in network.supervise():
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {event}", flush=True)
        time.sleep(1)


if __name__ == "__main__":
    main()
