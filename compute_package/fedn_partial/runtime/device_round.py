"""The client of a round on a device: monitored, and within the device's limits."""

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
from fedn_partial.training import terms


class DeviceClient(Client):
    """Client on a device, for one request.

    Attributes
    ----------
    monitor : measures the resources of the request.
    choice : selection of this round with its predicted memory; None before it is made.
    """

    def __init__(self, request: Request, device: Device, name: str, settings: RoundSettings):
        super().__init__(name, device.data, device.state_folder, device.max_layers)
        self.device = device
        self.monitor = _monitor(request, device, name, settings)
        self.phase = self.monitor.phase
        self.choice: device_limits.Choice | None = None
        self._forked = os.getppid() != request.pid
        self._free_bytes: int | None = None

    def build_model(self, section: dict) -> tuple:
        self._free_bytes = cgroup.available_memory()  # after the import of TensorFlow, before it holds a model
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
            terms=terms.from_dict(settings.objective),
        )
        context = self.context(settings)
        self.choice = device_limits.select_within_limits(self.device, settings, context, planner, self._free_bytes)
        selected = self.choice.selection
        if selected.limited:
            log(f"round {settings.round}: {selected.limited}")
        names = " ".join(layer.name for layer in selected.layers)
        log(f"round {settings.round}: training {len(selected.layers)} of {len(layers)} layers: {names}")
        self.choice.write_oom_marker()
        return selected


def _monitor(request: Request, device: Device, client: str, settings: RoundSettings) -> ResourceMonitor:
    return ResourceMonitor(
        interval=device.monitor_interval,
        roots=[os.getpid(), request.pid],
        # Including FEDn's client, and the fork server, whose memory this process largely shares.
        memory_roots=[os.getpid(), os.getppid(), request.pid, *([request.launcher.pid] if request.launcher else [])],
        samples=Path(device.workdir) / "samples.jsonl",
        labels={"client": client, "round": settings.round, "task": request.kind},
    )
