"""Keeps a network that ``fedn-partial network up`` started running: ``python -m ... FOLDER``; it ends with SIGTERM."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil

from fedn_partial.client.network.network import Network


def main() -> None:
    """Supervise the network in the folder that the command line names, and log what happens."""
    network = Network(Path(sys.argv[1]))
    network.load()
    network.supervisor = psutil.Process()  # which the process that started this one may not have noted yet
    while True:
        for event in network.supervise():
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {event}", flush=True)
        time.sleep(1)


if __name__ == "__main__":
    main()
