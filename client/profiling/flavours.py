"""Flavours: machines by processors and memory, as cloud providers sell them; the table is configs/flavours.yaml."""

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
    """Return the flavours called `names` that this machine can play, and of the others why it cannot.

    Raises
    ------
    FednPartialError : a name that is not in the table.
    """
    known = load_flavours()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise FednPartialError(f"no flavour called {', '.join(unknown)}; configs/flavours.yaml has {', '.join(known)}")
    cpus, memory = len(os.sched_getaffinity(0)), cgroup.machine_memory()
    playable, refused = [], {}
    for flavour in map(known.get, dict.fromkeys(names)):
        if flavour.cpus > cpus:
            refused[flavour.name] = f"it has {flavour.cpus} processors, this machine has {cpus}"
        elif memory is not None and flavour.memory_mib * MIB > memory:
            refused[flavour.name] = f"it has {flavour.memory_mib} MiB of memory, this machine has {memory // MIB}"
        else:
            playable.append(flavour)
    return playable, refused
