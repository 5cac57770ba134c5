"""Run clients in Docker containers with the processors and memory of a flavour."""

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

LABEL = "fedn-partial.profile"  # value: identity of the process that started the container
IN_CONTAINER = "/device"  # the client's folder, see client/Dockerfile
IMAGE_USER = 1000


def connect(image: str) -> docker.DockerClient:
    """Connect to this machine's Docker, check that `image` runs, and remove containers of killed profiles.

    Raises
    ------
    FednPartialError : Docker does not answer, or the image is missing, does not run, or has another version.
    """
    try:
        engine = docker.from_env(timeout=120)
        engine.ping()
    except DockerException as error:
        raise FednPartialError(
            f"Docker does not answer on this machine ({error}); install and start it (Debian: apt install docker.io), "
            "and check that this user may use it"
        ) from None
    build = f"docker build -f client/Dockerfile -t {shlex.quote(image)} ."
    try:
        engine.images.get(image)  # containers.run would pull a missing image
        output = engine.containers.run(
            image,
            ["python3", "-m", "fedn_partial.client.profiling.source"],
            entrypoint=["tini", "--"],
            remove=True,
            network_mode="none",
        )
    except ImageNotFound:
        raise FednPartialError(f"Docker has no image {image!r}; build it in the project's folder: {build}") from None
    except DockerException as error:
        raise FednPartialError(f"the image {image!r} does not run ({error}); rebuild it: {build}") from None
    if output.decode().strip() != source.digest():
        raise FednPartialError(f"the image {image!r} contains another version of fedn-partial; rebuild it: {build}")
    _remove_leftovers(engine)
    return engine


def owner() -> str:
    """Return the identity of this process for the label of its containers."""
    return "{} {}".format(*processes.identity(psutil.Process()))


def _remove_leftovers(engine: docker.DockerClient) -> None:
    """Remove containers left behind by a killed profile run."""
    for container in engine.containers.list(all=True, filters={"label": LABEL}):
        pid, started = container.labels[LABEL].split()
        if processes.find(int(pid), float(started)) is None:
            container.remove(force=True, v=True)


class ClientEnded(FednPartialError):
    """The client in a container has ended."""


@dataclass
class ClientContainer:
    """A client in a container, until ``stop``.

    Attributes
    ----------
    home : the client's folder, with client.yaml and its shard in `data`; the client writes its files there.
    """

    engine: docker.DockerClient
    image: str
    flavour: Flavour
    home: Path
    _container: Container | None = field(default=None, init=False)
    _since: int = field(default=0, init=False)

    def start(self) -> None:
        """Start the container: not as root, with a read-only root, without swap, on the host's network."""
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
                # With a CPU quota alone TensorFlow starts a thread for each processor of the host.
                cpuset_cpus=",".join(map(str, sorted(os.sched_getaffinity(0))[: self.flavour.cpus])),
            )
            self._container.start()
        except DockerException as error:
            raise FednPartialError(f"cannot start a container of flavour {self.flavour.name}: {error}") from None

    def check(self) -> None:
        """Raise ClientEnded, with the last line of its log, if the client has ended."""
        with contextlib.suppress(NotFound):
            self._container.reload()
            if self._container.status == "running":
                return
        last = next((line for line in reversed(self.log().splitlines()) if any(map(str.isalnum, line))), "(none)")
        raise ClientEnded(f"the client has ended; its last log line: {plain(last)}")

    def log(self) -> str:
        """Return the client's log; empty once it is stopped."""
        with contextlib.suppress(NotFound):
            return self._container.logs().decode(errors="replace")
        return ""

    def memory_kills(self) -> int:
        """Return how many processes in the container the kernel has killed for memory."""
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
        """Save the log in `home` and remove the container."""
        if self._container is None:
            return
        with contextlib.suppress(DockerException):
            self._container.stop(timeout=10)
            write_text(self.home / "client.log", self.log())
            self._container.remove(force=True, v=True)
