"""A device as the client of a round: measured, and within its limits."""

from __future__ import annotations

import os
from pathlib import Path

from fedn_partial.device import cgroup, device_limits
from fedn_partial.device.monitor import ResourceMonitor
from fedn_partial.device.planner import Planner
from fedn_partial.log import log
from fedn_partial.runtime.round import Client
from fedn_partial.runtime.task import Request
from fedn_partial.settings.case import Device, RoundSettings
from fedn_partial.submodel.layers import Layer
from fedn_partial.submodel.selection import Selection


class DeviceClient(Client):
    """The client of the device with these settings, for one request.

    Attributes
    ----------
    monitor : of the request's resources; its context lasts as long as the request.
    choice : selection of this round with its predicted costs, once it is made.
    """

    def __init__(self, request: Request, device: Device, name: str, settings: RoundSettings):
        super().__init__(name, device.data, Path(device.workdir), device.max_layers)
        self.device = device
        self.monitor = _monitor(request, device, name, settings)
        self.phase = self.monitor.phase
        self.choice: device_limits.Choice | None = None
        self._forked = os.getppid() != request.pid
        self._free_bytes: int | None = None

    def build_model(self, section: dict) -> tuple:
        self._free_bytes = cgroup.available_memory()  # with TensorFlow imported, and before it holds a model
        return super().build_model(section)

    def select(self, layers: list[Layer], settings: RoundSettings, examples: int) -> Selection:
        planner = Planner(
            layers=layers,
            training=settings.training,
            codec=settings.codec,
            base_mb=self.monitor.memory.get("import"),
            forked=self._forked,
            examples=examples * settings.training.epochs,
            batchnorm_statistics=settings.batchnorm_statistics,
        )
        context = self.context(settings)
        self.choice = device_limits.select_within_limits(self.device, settings, context, planner, self._free_bytes)
        chosen = self.choice.selection
        if chosen.limited:
            log(f"round {settings.round}: {chosen.limited}")
        names = " ".join(layer.name for layer in chosen.layers)
        log(f"round {settings.round}: training {len(chosen.layers)} of {len(layers)} layers: {names}")
        self.choice.mark()
        return chosen


def _monitor(request: Request, device: Device, client: str, settings: RoundSettings) -> ResourceMonitor:
    return ResourceMonitor(
        interval=device.monitor_interval,
        roots=[os.getpid(), request.pid],
        # With FEDn's client, and with the fork server, most of whose memory this process shares.
        memory_roots=[os.getpid(), os.getppid(), request.pid, *([request.launcher.pid] if request.launcher else [])],
        samples=Path(device.workdir) / "samples.jsonl",
        labels={"client": client, "round": settings.round, "task": request.kind},
    )
