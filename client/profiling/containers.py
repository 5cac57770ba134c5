"""Clients in Docker containers with the processors and the memory of a flavour."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path

import docker
import psutil
from docker.errors import DockerException, ImageNotFound, NotFound
from docker.models.containers import Container

from fedn_partial.client.fleet import processes
from fedn_partial.client.profiling import source
from fedn_partial.client.profiling.flavours import MIB, Flavour
from fedn_partial.errors import FednPartialError
from fedn_partial.exchange.wire import plain
from fedn_partial.runtime.atomic import write_text

LABEL = "fedn-partial.profile"  # holds the process that started a container
IN_CONTAINER = "/device"  # the client's folder there, see client/Dockerfile
IMAGE_USER = 1000


def connect(image: str) -> docker.DockerClient:
    """Return a connection to this machine's Docker, which has been seen to run `image`.

    Raises
    ------
    FednPartialError : Docker does not answer, or the image is missing, broken, or of another version than this.
    """
    try:
        engine = docker.from_env(timeout=120)
        engine.ping()
    except DockerException as error:
        raise FednPartialError(
            f"no Docker answers on this machine ({error}); install and start it (Debian: apt install docker.io), "
            "as a user who may use it"
        ) from None
    build = f"docker build -f client/Dockerfile -t {shlex.quote(image)} ."
    try:
        engine.images.get(image)  # running it would try to pull it from a registry
        said = engine.containers.run(
            image,
            ["python3", "-m", "fedn_partial.client.profiling.source"],
            entrypoint=["tini", "--"],
            remove=True,
            network_mode="none",
        )
    except ImageNotFound:
        raise FednPartialError(f"Docker has no image {image!r}; in the project's folder: {build}") from None
    except DockerException as error:
        raise FednPartialError(f"the image {image!r} does not run ({error}); build it again: {build}") from None
    if said.decode().strip() != source.digest():
        raise FednPartialError(f"the image {image!r} holds another version than this; build it again: {build}")
    _remove_left_over(engine)
    return engine


def owner() -> str:
    """Return what a container of this process is labelled with."""
    return "{} {}".format(*processes.identity(psutil.Process()))


def _remove_left_over(engine: docker.DockerClient) -> None:
    """Remove the containers of a profile that was killed: nothing else would ever stop them."""
    for container in engine.containers.list(all=True, filters={"label": LABEL}):
        pid, started = container.labels[LABEL].split()
        if processes.find(int(pid), float(started)) is None:
            container.remove(force=True, v=True)


class ClientEnded(FednPartialError):
    """The client in a container has ended by itself, or was killed."""


@dataclass
class ClientContainer:
    """A client in a container, until ``stop``.

    Attributes
    ----------
    home : the client's folder: client.yaml and its shard in `data`; all that it writes comes here as well.
    """

    engine: docker.DockerClient
    image: str
    flavour: Flavour
    home: Path
    _container: Container | None = field(default=None, init=False)
    _since: int = field(default=0, init=False)

    def start(self) -> None:
        """Start it: not as root, on a read-only file system, without swap, on the network of this machine."""
        user = os.getuid() or IMAGE_USER
        if os.getuid() == 0:
            for path in (self.home, *self.home.rglob("*")):
                os.chown(path, user, user)
        memory = self.flavour.memory_mib * MIB
        folder = self.home.resolve()
        self._since = int(time.time())
        try:
            self._container = self.engine.containers.create(
                self.image,
                labels={LABEL: owner()},
                user=f"{user}:{user}",
                read_only=True,
                network_mode="host",
                tmpfs={"/tmp": ""},
                volumes={
                    str(folder): {"bind": IN_CONTAINER, "mode": "rw"},
                    str(folder / "data"): {"bind": f"{IN_CONTAINER}/data", "mode": "ro"},
                },
                environment={"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"},
                mem_limit=memory,
                memswap_limit=memory,
                nano_cpus=self.flavour.cpus * 10**9,
                # A time slice alone would let TensorFlow start as many threads as the whole machine has processors.
                cpuset_cpus=",".join(map(str, sorted(os.sched_getaffinity(0))[: self.flavour.cpus])),
            )
            self._container.start()
        except DockerException as error:
            raise FednPartialError(f"no container of flavour {self.flavour.name} can be started: {error}") from None

    def check(self) -> None:
        """Raise ClientEnded, with the last line of its log, if the client has ended."""
        with contextlib.suppress(NotFound):
            self._container.reload()
            if self._container.status == "running":
                return
        last = next((line for line in reversed(self.log().splitlines()) if any(map(str.isalnum, line))), "nothing")
        raise ClientEnded(f"the client has ended; the last that it said: {plain(last)}")

    def log(self) -> str:
        """Return what the client has logged so far; nothing once it is stopped."""
        with contextlib.suppress(NotFound):
            return self._container.logs().decode(errors="replace")
        return ""

    def memory_kills(self) -> int:
        """Return how often the kernel has killed a process in the container for memory."""
        if self._container is None:
            return 0
        events = self.engine.events(
            since=self._since,
            until=int(time.time()) + 1,
            filters={"container": self._container.id, "event": "oom"},
            decode=True,
        )
        return sum(1 for _ in events)

    def stop(self) -> None:
        """Keep the log in `home`, and remove the container."""
        if self._container is None:
            return
        with contextlib.suppress(DockerException):
            self._container.stop(timeout=10)
            write_text(self.home / "client.log", self.log())
            self._container.remove(force=True, v=True)
