"""Profile training rounds on container flavours (Tables 4 and 5 of the paper).

Each cell, a flavour with a number of layers, is a session of its own on a local FEDn network, with one client in a
container. A profile's folder contains ``profile.json`` and a run's folder for each cell.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml

from fedn_partial import models
from fedn_partial.client.fleet.fleet import wait_until_online
from fedn_partial.client.fleet.local_run import local_network, network_was_started, uninterrupted
from fedn_partial.client.follow import progress
from fedn_partial.client.follow.poller import SessionPoller
from fedn_partial.client.profiling.containers import ClientContainer, ClientEnded
from fedn_partial.client.profiling.flavours import Flavour
from fedn_partial.client.records.load import Cell, load
from fedn_partial.client.records.outcome import Outcome
from fedn_partial.client.records.run_folder import Row, RunFolder, describe, new_folder
from fedn_partial.client.report import paper
from fedn_partial.client.tables import text_table
from fedn_partial.data.shard import Shard, open_shard, write_shard
from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import write_text
from fedn_partial.seed_model.case_checks import check_case
from fedn_partial.seed_model.seed import build_seed, upload_seed
from fedn_partial.seed_model.session import start_session
from fedn_partial.settings.case import Case
from fedn_partial.submodel import selection

READY_TIMEOUT = 300  # seconds; importing TensorFlow on one processor is slow
TEST_EXAMPLES = 32
CLIENT = "profile"  # the same in all cells, so that the same layers are selected on each flavour


@dataclass(frozen=True)
class Setup:
    """Settings of a profile.

    Attributes
    ----------
    engine, image : see ``fedn_partial.client.profiling.containers.connect``.
    flavours : flavours to profile.
    refused : {flavour: reason} of the flavours that do not fit this machine.
    numbers : numbers of layers, see ``check_layers``.
    shard : the client's data.
    """

    engine: object
    image: str
    flavours: list[Flavour]
    refused: dict[str, str]
    numbers: list[int]
    shard: Shard


def run_profile(case: Case, setup: Setup, parent: Path, on_event: Callable[[dict], None]) -> Path:
    """Train `case` on each flavour with each number of layers; return the profile's folder below `parent`.

    Parameters
    ----------
    on_event : called with each cell and with each of its rounds as a dict.

    Raises
    ------
    FednPartialError : a process did not start. profile.json keeps the completed cells. A client that ends, for
        memory or not, ends its cell only.
    """
    path = new_folder(parent, f"profile-{case.name}")
    profile = {
        "kind": "profile",
        **describe(case),
        "examples": len(setup.shard.y_train),
        "data": setup.shard.origin["source"],
        "rounds": case.session.rounds,
        "asked": [[flavour.name, number] for flavour in setup.flavours for number in setup.numbers],
        "cells": [],
        "refused": setup.refused,
    }
    _write(path, profile)
    print(f"profile: {path}\nbuilding seed model", flush=True)
    layers = build_seed(case, path / "seed.npz")
    for flavour, number in itertools.product(setup.flavours, setup.numbers):
        print(f"\n{flavour.name}, {number} of {len(layers)} layers", flush=True)
        empty = Cell(flavour.name, number, flavour.cpus, flavour.memory_mib, len(layers))
        folder = RunFolder(path / f"{flavour.name}-{number}", _with_layers(case, number))
        container = ClientContainer(setup.engine, setup.image, flavour, folder.path / "client")
        try:
            cell = _measure(empty, container, folder, path / "seed.npz", setup.shard, on_event)
        except FednPartialError as error:
            if not profile["cells"] and not network_was_started(folder.path):
                shutil.rmtree(path)
                raise
            raise FednPartialError(
                f"{flavour.name}, {number} layers: {error}\nthe completed cells are in {path}"
            ) from None
        record = {**asdict(cell), "run": folder.path.name}
        profile["cells"].append(record)
        _write(path, profile)
        on_event({"event": "cell", **record})
    return path


def _write(path: Path, profile: dict) -> None:
    write_text(path / "profile.json", json.dumps(profile, indent=1) + "\n")


def check_layers(case: Case, numbers: list[int]) -> None:
    """Raise FednPartialError if the case is invalid or its model cannot train one of these numbers of layers."""
    layers = check_case(case)
    always = set(_always(case))
    for number in numbers:
        if not max(1, len(always)) <= number <= len(layers):
            raise FednPartialError(
                f"--layers: {number} is not from {max(1, len(always))} to {len(layers)}, the layers of this model"
                + (f" ({', '.join(sorted(always))} always trained)" if always else "")
            )


def named_shard(folder: Path) -> Shard:
    """Return the shard in `folder`, with the folder as its source (raises DataError)."""
    return dataclasses.replace(open_shard(folder), origin={"source": f"the shard {folder}"})


def random_shard(case: Case, examples: int) -> Shard:
    """Return random data in the shape of the model's input: the cost of training does not depend on the values."""
    model = models.build(case.model, empty=True)
    random = np.random.default_rng(case.seed)
    classes = max(2, model.output.shape[-1])
    origin = {"source": "random data"}

    def draw(count: int):
        shape = (count, *model.input.shape[1:])
        if model.input.dtype == "int32":
            x = random.integers(0, 1000, shape).astype(np.int32)
        elif len(shape) == 4:
            x = random.integers(0, 256, shape, dtype=np.uint8)
        else:
            x = random.random(shape, dtype=np.float32)
        return x, random.integers(0, classes, count).astype(np.int32)

    return Shard(*draw(examples), *draw(TEST_EXAMPLES), tuple(f"class {n}" for n in range(classes)), origin)


def cost_table(path: Path) -> str:
    """Return a text table of the profile in the folder `path`, with the paper's figures."""
    _, (profile,) = load([path])
    costs = paper.costs(profile)
    keys = ("seconds", "cpu_percent", "ram_mb", "ram_percent")
    titles = ["train s", "CPU %", "RAM MB", "RAM %"]
    headings = ("flavour", "layers", *titles, *(f"paper's {title}" for title in titles if costs.table))
    rows, notes = [], []
    for flavour in costs.flavours:
        for layers, pair in flavour.pairs.items():
            if pair.ours is None:
                continue
            ours = ["-" if pair.ours.killed else _format(getattr(pair.ours, key)) for key in keys]
            theirs = [pair.paper if pair.paper == "-" else _format((pair.paper or {}).get(key)) for key in keys]
            rows.append((flavour.name, str(layers), *ours, *(theirs if costs.table else ())))
            if reason := pair.ours.killed or pair.ours.limited:
                notes.append(f"{flavour.name}, {layers} layers: {reason}")
    return "\n".join([text_table(headings, rows, left=1), *notes])


def _format(figure: float | None) -> str:
    return "n/a" if figure is None else f"{figure:.1f}"


def _always(case: Case) -> tuple[str, ...]:
    return getattr(selection.from_dict(case.selection), "always_train", ())


def _with_layers(case: Case, number: int) -> Case:
    selector = selection.Random(number, always_train=_always(case))
    return dataclasses.replace(case, selection=selection.to_dict(selector))


def prepare_client(home: Path, shard: Shard, url: str) -> None:
    """Write the client's shard, and its client.yaml for the controller at `url`."""
    write_shard(home / "data", shard, shard.origin["source"])
    config = {"name": CLIENT, "api_url": url, "fedn_partial": {"data": "data"}}
    write_text(home / "client.yaml", yaml.safe_dump(config, sort_keys=False))


def _measure(cell: Cell, container: ClientContainer, folder: RunFolder, seed: Path, shard, on_event) -> Cell:
    """Run a session with the client in `container` and return `cell` with its figures.

    Each cell has a network of its own, as FEDn would delay the next session while it waits for a killed client.
    """
    ended = None
    with local_network(folder.path, on_event=lambda line: None) as (network, api):
        upload_seed(api, seed)
        prepare_client(container.home, shard, network.url)

        def check():
            container.check()
            return network.supervise()

        try:
            container.start()
            wait_until_online(api, {CLIENT}, check, READY_TIMEOUT, container.home)
            session_id, layers = start_session(api, folder.case)
            poller = SessionPoller(api, session_id)
            progress.follow(poller, folder.case, layers, folder, check=check, on_event=on_event)
        except ClientEnded as error:
            ended = str(error)
            print(ended, flush=True)
        finally:
            kills = container.memory_kills()
            with uninterrupted():
                container.stop()
    shutil.rmtree(network.folder / "storage", ignore_errors=True)  # models, which would accumulate over the cells
    return fill(cell, folder.rows, folder.case.session.rounds, kills, ended)


def fill(cell: Cell, rows: list[Row], rounds: int, memory_kills: int, ended: str | None = None) -> Cell:
    """Return `cell` with the means over the rows in which all its layers were trained.

    Parameters
    ----------
    rounds : rounds of the session.
    memory_kills : how many processes of the container the kernel killed for memory.
    ended : why the session ended early, or None.
    """
    complete = [row for row in rows if len(row.layers) == cell.layers]
    incomplete = {number: row for number, row in enumerate(rows, start=1) if len(row.layers) != cell.layers}
    reasons = filter(None, [*(row.limited or _refusal(row) for row in incomplete.values()), ended])
    reason = "; ".join(dict.fromkeys(reasons)) or "no update arrived"
    killed = limited = None
    if len(complete) < rounds and memory_kills:
        killed = f"killed in round {min(incomplete, default=len(rows) + 1)} of {rounds}: {reason}"
    elif len(complete) < rounds:
        trained = _mean([len(row.layers) for row in rows]) or 0
        limited = f"{trained:.1f} of {cell.layers} layers trained in {len(rows)} of {rounds} rounds: {reason}"
    elif memory_kills:
        limited = "all layers were trained, but the kernel killed another process of the container for memory"
    measured = [] if killed else complete
    return dataclasses.replace(
        cell,
        rounds=len(measured),
        seconds=_mean([row.train_seconds for row in measured]),
        round_seconds=_mean([row.round_seconds for row in measured]),
        cpu_percent=_mean([row.machine_cpu_percent for row in measured]),
        ram_mb=max((row.ram_used_mb for row in measured if row.ram_used_mb is not None), default=None),
        ram_percent=max((row.ram_percent for row in measured if row.ram_percent is not None), default=None),
        killed=killed,
        limited=limited,
    )


def _refusal(row: Row) -> str | None:
    return row.reason if row.outcome in (Outcome.REFUSED, Outcome.SKIPPED, Outcome.LATE) else None


def _mean(values: list) -> float | None:
    measured = [value for value in values if value is not None]
    return round(sum(measured) / len(measured), 3) if measured else None
