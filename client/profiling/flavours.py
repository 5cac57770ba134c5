"""Flavours: machine sizes, as cloud providers offer them; listed in configs/flavours.yaml."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fedn_partial import configs
from fedn_partial.device import cgroup
from fedn_partial.errors import FednPartialError
from fedn_partial.settings.schema import bounded, parse
from fedn_partial.settings.yaml_file import read_yaml

MIB = 2**20


@dataclass(frozen=True)
class Flavour:
    """A machine with `cpus` processors and `memory_mib` MiB of memory."""

    name: str
    cpus: int = bounded(at_least=1)
    memory_mib: int = bounded(at_least=64)


def load_flavours() -> dict[str, Flavour]:
    """Return the flavours of configs/flavours.yaml by name (raises SettingsError)."""
    path = Path(configs.__file__).with_name("flavours.yaml")
    return {
        name: parse(Flavour, {**(raw or {}), "name": name}, f"{path}: {name}") for name, raw in read_yaml(path).items()
    }


def pick(names: list[str]) -> tuple[list[Flavour], dict[str, str]]:
    """Return the flavours `names` that fit this machine, and {name: reason} of those that do not.

    Raises
    ------
    FednPartialError : a name is not in configs/flavours.yaml.
    """
    flavours = load_flavours()
    unknown = [name for name in names if name not in flavours]
    if unknown:
        raise FednPartialError(
            f"no flavour called {', '.join(unknown)}; configs/flavours.yaml has {', '.join(flavours)}"
        )
    cpus, memory = len(os.sched_getaffinity(0)), cgroup.machine_memory()
    fitting, refused = [], {}
    for flavour in map(flavours.get, dict.fromkeys(names)):
        if flavour.cpus > cpus:
            refused[flavour.name] = f"it has {flavour.cpus} processors, this machine has {cpus}"
        elif memory is not None and flavour.memory_mib * MIB > memory:
            refused[flavour.name] = f"it has {flavour.memory_mib} MiB of memory, this machine has {memory // MIB}"
        else:
            fitting.append(flavour)
    return fitting, refused
