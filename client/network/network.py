"""Run a FEDn network on this machine without Docker: controller, combiner, hooks, SQLite and an S3 server.

The processes are FEDn's own, started by ``fedn_process``; the object store is ``rclone serve s3`` over a folder. All
state is in one folder, so that a restarted network still has its models.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from fedn_partial.client.fedn_api.api import Api
from fedn_partial.client.fleet import processes
from fedn_partial.client.fleet.waiting import wait_until
from fedn_partial.client.network import addresses
from fedn_partial.client.network.addresses import LOOPBACK, PORTS, PUBLIC
from fedn_partial.client.network.configuration import Configuration, find_rclone
from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import write_text

READY_TIMEOUT = 90  # seconds
MAX_PAUSE = 30  # seconds before a process that keeps ending is restarted
HEALTHY = 60  # seconds that a process must run before its earlier restarts are forgotten
MAX_RESTARTS = 3  # in a row, before a network for one run counts as broken


@dataclass
class Restart:
    """Restart of a process that ended.

    Attributes
    ----------
    count : number of restarts in a row, this one included.
    due, started : monotonic times; `started` is None before the restart.
    answers : whether its port has answered since.
    """

    count: int
    due: float
    started: float | None = None
    answers: bool = False


@dataclass
class Network:
    """A local FEDn network.

    Attributes
    ----------
    folder : state, logs and models.
    host : address that controller and combiner listen on; hooks and object store listen on 127.0.0.1.
    """

    folder: Path
    host: str = "127.0.0.1"
    ports: dict[str, int] = field(default_factory=dict)
    running: dict[str, psutil.Process] = field(default_factory=dict)
    supervisor: psutil.Process | None = None
    _restarts: dict[str, Restart] = field(default_factory=dict, repr=False)
    _tied: bool = field(default=False, repr=False)

    @property
    def url(self) -> str:
        """URL of the controller."""
        return f"http://{addresses.reachable(self.host)}:{self.ports['controller']}"

    @property
    def configuration(self) -> Configuration:
        """Files, commands and environment of the processes."""
        return Configuration(self.folder, self.host, self.ports)

    def log(self, name: str) -> Path:
        """Return the path of a process' log."""
        return self.folder / "logs" / f"{name}.log"

    def up(self, host: str | None = None, tied: bool = False, on_event=print) -> None:
        """Start the processes that are not running and wait until they answer.

        Parameters
        ----------
        host : address that controller and combiner listen on; None for the previous one.
        tied : whether the processes end with this one.
        on_event : called with a line for each step.

        Raises
        ------
        FednPartialError : a port is in use, rclone is missing, or a process did not start.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        busy = f"another command is starting the network in {self.folder}"
        with processes.locked(self.folder / "lock", busy):
            before = dict(self.running)
            try:
                self._up(host, tied, on_event)
            except BaseException:
                processes.stop([process for name, process in self.running.items() if before.get(name) != process])
                raise

    def _up(self, host: str | None, tied: bool, on_event) -> None:
        self.load()
        if self.running and host not in (None, self.host):
            raise FednPartialError(
                f"the network in {self.folder} runs on {self.host}; stop it first: "
                f"fedn-partial network down --folder {shlex.quote(str(self.folder))}"
            )
        self.host, self._tied = host or self.host, tied
        addresses.check_address(self.host)
        rclone = find_rclone()
        if self.supervisor is None:
            if not self.running:
                self._remove_leftovers()
            for name in (name for name in PORTS if name not in self.running):
                self.ports[name] = addresses.choose_port(name, self.ports.get(name), tied, self.folder)
            self.configuration.write()
            for name, command in self.configuration.commands(rclone).items():
                if name not in self.running:
                    on_event(f"starting {name} on {self.configuration.address(name)}:{self.ports[name]}")
                    self.start_process(name, command, tied)
                    self._wait_for_port(name)
        self._wait_for_combiner()
        if not tied and self.supervisor is None:
            self._start_supervisor()
        if self.host not in LOOPBACK:
            ports = " and ".join(f"{name} (port {self.ports[name]})" for name in PUBLIC)
            on_event(f"{ports} accept connections from every machine, without a password")

    def start_process(self, name: str, command: list[str] | None = None, tied: bool = False) -> None:
        """Start one process of the network."""
        command = command or self.configuration.commands(find_rclone())[name]
        environment = self.configuration.environment()
        self.running[name] = processes.start(command, self.log(name), environment, self.folder, tied)
        self._save()

    def supervise(self) -> list[str]:
        """Restart processes that have ended, after pauses of 1, 2, 4, ... seconds; call this once a second.

        Returns
        -------
        A line for each process that ended or answers again.

        Raises
        ------
        FednPartialError : in a network for one run, a process ended more than MAX_RESTARTS times in a row.
        """
        events = []
        for name in PORTS:
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
        how = processes.clean_up(self.running[name]) if name in self.running else ""
        if self._tied and count > MAX_RESTARTS:
            raise FednPartialError(
                f"{name} ended {count} times in a row; the last lines of {self.log(name)} are:\n"
                f"{processes.tail(self.log(name))}"
            )
        pause = min(2 ** (count - 1), MAX_PAUSE)
        self._restarts[name] = Restart(count, now + pause)
        return f"{name} ended{how} and is started again in {pause} s"

    def _start_supervisor(self) -> None:
        command = [sys.executable, "-m", "fedn_partial.client.network.supervisor", str(self.folder.resolve())]
        self.supervisor = processes.start(command, self.log("supervisor"), dict(os.environ), self.folder, tied=False)
        self._save()

    def exists(self) -> bool:
        """Return whether `folder` holds the state of a network."""
        return self._state_file().exists()

    def down(self) -> None:
        """Stop all processes of this network; models and logs are kept."""
        self.load()
        if self.supervisor:
            processes.stop([self.supervisor])
            self.load()  # the supervisor may have restarted a process meanwhile
        processes.stop(list(self.running.values()))
        self.running = {}
        if self.exists():
            self._save()

    def status(self) -> dict[str, int | None]:
        """Return {process: pid}, None for those that are not running."""
        self.load()
        running = {**self.running, "supervisor": self.supervisor}
        return {name: running[name].pid if running.get(name) else None for name in (*PORTS, "supervisor")}

    def check(self) -> None:
        """Raise FednPartialError with the end of its log if a process has ended."""
        for name, process in self.running.items():
            processes.check_alive(process, name, self.log(name))

    def _state_file(self) -> Path:
        return self.folder / "network.json"

    def load(self) -> None:
        """Read the state file of this network."""
        try:
            state = json.loads(self._state_file().read_text())
            ports, host = {name: int(state["ports"][name]) for name in PORTS}, str(state["host"])
            started = {name: processes.find(*identity) for name, identity in state["running"].items()}
            supervisor = processes.find(*state["supervisor"]) if state.get("supervisor") else None
        except FileNotFoundError:
            return
        except (AttributeError, ValueError, LookupError, TypeError) as error:
            raise FednPartialError(
                f"{self._state_file()} is damaged ({error!r}); stop the network's processes by hand and remove the file"
            ) from None
        self.ports, self.host, self.supervisor = ports, host, supervisor
        self.running = {name: process for name, process in started.items() if process}

    def _save(self) -> None:
        running = {name: processes.identity(process) for name, process in self.running.items()}
        state = {"ports": self.ports, "host": self.host, "running": running}
        if self.supervisor:
            state["supervisor"] = processes.identity(self.supervisor)
        write_text(self._state_file(), json.dumps(state, indent=1) + "\n")

    def _remove_leftovers(self) -> None:
        """Remove what killed processes left: temporary models, and partial uploads that rclone had not renamed."""
        for name in ("models", "tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for path in (self.folder / "storage").rglob(".rclone_temp_*"):
            path.unlink(missing_ok=True)

    def _answers(self, name: str) -> bool:
        host = addresses.reachable(self.host) if name in PUBLIC else "127.0.0.1"
        return addresses.answers(host, self.ports[name])

    def _wait_for_port(self, name: str) -> None:
        def answers() -> bool:
            processes.check_alive(self.running[name], name, self.log(name))
            return self._answers(name)

        if not wait_until(answers, READY_TIMEOUT, pause=0.2):
            raise FednPartialError(f"{name} did not start within {READY_TIMEOUT} s; see {self.log(name)}")

    def _wait_for_combiner(self) -> None:
        api = Api(self.url)

        def is_registered() -> bool:
            if self.supervisor is None:
                self.check()
            with contextlib.suppress(FednPartialError):
                return api.get("combiners/")["count"] > 0
            return False

        if not wait_until(is_registered, READY_TIMEOUT):
            raise FednPartialError(
                f"the controller has no combiner after {READY_TIMEOUT} s; see {self.log('combiner')}"
            )
