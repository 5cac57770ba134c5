"""A device for tests: compute package, shard, client.yaml, and a global model with the round's settings."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import keras
import numpy as np

from fedn_partial import models
from fedn_partial.data.shard import Shard, write_shard
from fedn_partial.exchange import wire
from fedn_partial.seed_model.package import build_package
from fedn_partial.submodel.layers import fingerprint, read_layers

MODEL = {"name": "lstm_har", "classes": 4}


class Device:
    """A device in `folder` and, once started, a process that stands for FEDn's client on it."""

    def __init__(self, folder: Path, model: dict = MODEL, shard: Shard | None = None, custom=None, **section):
        self.folder = folder
        self.model = model
        self.package = folder / "package"
        build_package(folder / "package.tgz", custom)
        with tarfile.open(folder / "package.tgz") as archive:
            archive.extractall(self.package, filter="data")
        random = np.random.default_rng(1)
        x = random.random((60, 1, 36), dtype=np.float32)
        y = random.integers(0, 4, 60).astype(np.int32)
        shard = shard or Shard(x[:50], y[:50], x[50:], y[50:], ("sit", "walk", "sleep", "eat"))
        write_shard(folder / "data", shard, "made up")
        section = {"data": "data", "monitor_interval": 0.05, **section}
        (folder / "client.yaml").write_text(json.dumps({"name": "device-1", "fedn_partial": section}))
        self.process: subprocess.Popen | None = None

    def write_model(self, **changes) -> list[np.ndarray]:
        """Write the global model to model.npz and what the server functions would send to its metadata."""
        keras.utils.set_random_seed(1)
        model = models.build(self.model)
        weights = model.get_weights()
        with (self.folder / "model.npz").open("wb") as file:
            np.savez(file, **{str(index): array for index, array in enumerate(weights)})
        settings = {
            "round": 3,
            "warmup": False,
            "seed": 1,
            "model": self.model,
            "fingerprint": fingerprint(read_layers(model)),
            "base": wire.digest(weights),
            "selection": {"selector": "random", "layers": 2},
            "codec": "float32",
            "session_id": "session1",
            "training": {"epochs": 1, "batch_size": 16},
            **changes,
        }
        (self.folder / "model.npz-metadata").write_text(json.dumps(settings))
        return weights

    def start_client(self) -> None:
        """Start a process that runs shell commands as FEDn's client does, with FEDn's command line."""
        code = (
            "import subprocess, sys\n"
            "for line in sys.stdin:\n"
            "    print(subprocess.run(['bash', '-c', line.strip()], cwd=sys.argv[-1]).returncode, flush=True)\n"
        )
        command = [sys.executable, "-c", code, "client", "start", "-in", "client.yaml", "--", str(self.package)]
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "client.log").open("w"),
            text=True,
        )

    def run(self, entry: str, *paths: str) -> int:
        """Let the client run an entry point; return its exit code."""
        words = [sys.executable, f"{entry}.py", *(str(self.folder / path) for path in paths)]
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def choose_layers(self, names: list[str]) -> None:
        """Let the next request train the layers called `names`."""
        path = self.folder / "model.npz-metadata"
        told = json.loads(path.read_text())
        path.write_text(json.dumps({**told, "selection": {"selector": "fixed", "names": names}}))

    def metadata(self) -> dict:
        """Metadata of the update in update.npz."""
        return json.loads((self.folder / "update.npz-metadata").read_text())
