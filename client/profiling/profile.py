"""Resource profiles: what a case costs flavours of machines at several numbers of layers (the paper's Tables 4, 5).

Each cell of the table is a session of its own on a local FEDn network, with one client, in a container. A profile's
folder holds ``profile.json`` and a run's folder for each cell.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
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
from fedn_partial.client.records.run_folder import Row, RunFolder, describe, new_folder
from fedn_partial.client.report import paper
from fedn_partial.data.shard import Shard, open_shard, write_shard
from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import write_text
from fedn_partial.seed_model.case_checks import check_case
from fedn_partial.seed_model.seed import build_seed, upload_seed
from fedn_partial.seed_model.session import start_session
from fedn_partial.settings.case import Case
from fedn_partial.submodel import selection

READY_TIMEOUT = 300  # seconds; on one processor TensorFlow's import takes a while
TEST_EXAMPLES = 32
CLIENT = "profile"  # one name in all cells, so that the same layers are drawn in each flavour


def run_profile(
    case: Case,
    engine,
    image: str,
    flavours: list[Flavour],
    refused: dict[str, str],
    numbers: list[int],
    shard: Shard,
    parent: Path,
    tell: Callable[[dict], None],
) -> Path:
    """Train `case` on each flavour at each number of layers, and return the folder of the profile below `parent`.

    Parameters
    ----------
    engine, image : see fedn_partial.client.profiling.containers.connect. refused : flavours that are left out, and why.
    numbers : of layers; ``check_layers`` has seen them.
    tell : called with each cell as a dict, and with each of its rounds.

    Raises
    ------
    FednPartialError : something did not come up. profile.json keeps the cells that were done. A client that ends,
    for memory or not, ends its cell only.
    """
    path = new_folder(parent, f"profile-{case.name}")
    profile = {
        "kind": "profile",
        **describe(case),
        "examples": len(shard.y_train),
        "data": shard.origin["source"],
        "rounds": case.session.rounds,
        "asked": [[flavour.name, number] for flavour in flavours for number in numbers],
        "cells": [],
        "refused": refused,
    }
    _write(path, profile)
    print(f"the profile's folder: {path}\nbuilding seed model", flush=True)
    layers = build_seed(case, path / "seed.npz")
    for flavour in flavours:
        for number in numbers:
            print(f"\n{flavour.name}, {number} of {len(layers)} layers", flush=True)
            empty = Cell(flavour.name, number, flavour.cpus, flavour.memory_mib, len(layers))
            folder = RunFolder(path / f"{flavour.name}-{number}", _with_layers(case, number))
            container = ClientContainer(engine, image, flavour, folder.path / "client")
            try:
                cell = _measure(empty, container, folder, path / "seed.npz", shard, tell)
            except FednPartialError as error:
                if not profile["cells"] and not network_was_started(folder.path):
                    shutil.rmtree(path)
                    raise
                raise FednPartialError(
                    f"{flavour.name}, {number} layers: {error}\nwhat there is is in {path}"
                ) from None
            told = {**asdict(cell), "run": folder.path.name}
            profile["cells"].append(told)
            _write(path, profile)
            tell({"event": "cell", **told})
    return path


def _write(path: Path, profile: dict) -> None:
    write_text(path / "profile.json", json.dumps(profile, indent=1) + "\n")


def check_layers(case: Case, numbers: list[int]) -> None:
    """Raise FednPartialError if the case is wrong, or its model cannot train one of these numbers of layers."""
    layers = check_case(case)
    always = set(_always(case))
    for number in numbers:
        if not max(1, len(always)) <= number <= len(layers):
            raise FednPartialError(
                f"--layers: {number} is not from {max(1, len(always))} to {len(layers)}, the layers of this model"
                + (f" ({', '.join(sorted(always))} always trained)" if always else "")
            )


def named_shard(folder: Path) -> Shard:
    """Return the shard in `folder`, to be named as such (raises DataError)."""
    return dataclasses.replace(open_shard(folder), origin={"source": f"the shard {folder}"})


def made_up_shard(case: Case, examples: int) -> Shard:
    """Return random data that fit the model of `case`: what training costs does not depend on them."""
    model = models.build(case.model, empty=True)
    random = np.random.default_rng(case.seed)
    classes = max(2, model.output.shape[-1])
    origin = {"source": "made up at random"}

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


def text_table(path: Path) -> str:
    """Return the figures of the profile in the folder `path` as a text table, the paper's beside them."""
    _, (profile,) = load([path])
    found = paper.costs(profile)
    keys = ("seconds", "cpu_percent", "ram_mb", "ram_percent")
    heads = ["train s", "CPU %", "RAM MB", "RAM %"]
    lines = [("flavour", "layers", *heads, *(f"paper's {head}" for head in heads if found.table))]
    notes = []
    for flavour in found.flavours:
        for layers, pair in flavour.pairs.items():
            if pair.ours is None:
                continue
            ours = ["-" if pair.ours.killed else _told(getattr(pair.ours, key)) for key in keys]
            theirs = [pair.paper if pair.paper == "-" else _told((pair.paper or {}).get(key)) for key in keys]
            lines.append((flavour.name, str(layers), *ours, *(theirs if found.table else ())))
            if why := pair.ours.killed or pair.ours.limited:
                notes.append(f"{flavour.name}, {layers} layers: {why}")
    return "\n".join([progress.aligned(lines), *notes])


def _told(figure: float | None) -> str:
    return "n/a" if figure is None else f"{figure:.1f}"


def _always(case: Case) -> tuple[str, ...]:
    return getattr(selection.from_dict(case.selection), "always_train", ())


def _with_layers(case: Case, number: int) -> Case:
    selector = selection.Random(number, always_train=_always(case))
    return dataclasses.replace(case, selection=selection.to_dict(selector))


def prepare_client(home: Path, shard: Shard, url: str) -> None:
    """Write the folder of a client: its shard, and its client.yaml for the controller at `url`."""
    write_shard(home / "data", shard, shard.origin["source"])
    config = {"name": CLIENT, "api_url": url, "fedn_partial": {"data": "data"}}
    write_text(home / "client.yaml", yaml.safe_dump(config, sort_keys=False))


def _measure(cell: Cell, container: ClientContainer, folder: RunFolder, seed: Path, shard, tell) -> Cell:
    """Run a session with the client in `container`, and return `cell` with its figures.

    On a network of its own: FEDn waits long for a client that was killed, and another session waits with it.
    """
    ended = None
    with local_network(folder.path, say=lambda line: None) as (network, api):
        upload_seed(api, seed)
        prepare_client(container.home, shard, network.url)

        def check():
            container.check()
            return network.supervise()

        try:
            container.start()
            wait_until_online(api, {CLIENT}, check, READY_TIMEOUT, container.home)
            session_id, layers = start_session(api, folder.case)
            progress.follow(SessionPoller(api, session_id), folder.case, layers, folder, check=check, tell=tell)
        except ClientEnded as error:
            ended = str(error)
            print(ended, flush=True)
        finally:
            kills = container.memory_kills()
            with uninterrupted():
                container.stop()
    shutil.rmtree(network.folder / "storage", ignore_errors=True)  # models, which would pile up cell by cell
    return fill(cell, folder.rows, folder.case.session.rounds, kills, ended)


def fill(cell: Cell, rows: list[Row], rounds: int, memory_kills: int, ended: str | None = None) -> Cell:
    """Return `cell` with the figures of those of its rows in which all its layers were trained.

    Parameters
    ----------
    rounds : how many were asked for.
    memory_kills : how often the kernel killed a process of the container for memory.
    ended : why the session ended early, or None.
    """
    whole = [row for row in rows if len(row.layers) == cell.layers]
    short = [number for number, row in enumerate(rows, start=1) if len(row.layers) != cell.layers]
    reasons = filter(None, [*(rows[number - 1].limited or _refusal(rows[number - 1]) for number in short), ended])
    why = "; ".join(dict.fromkeys(reasons)) or "no update came"
    killed = limited = None
    if len(whole) < rounds and memory_kills:
        killed = f"killed in round {short[0] if short else len(rows) + 1} of {rounds}: {why}"
    elif len(whole) < rounds:
        trained = _mean([len(row.layers) for row in rows]) or 0
        limited = f"{trained:.1f} of {cell.layers} layers trained in {len(rows)} of {rounds} rounds: {why}"
    elif memory_kills:
        limited = "all of it was trained, but the kernel killed another process of the container for memory"
    measured = [] if killed else whole
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
    return row.outcome.partition(": ")[2] if row.outcome.startswith(("refused", "skipped")) else None


def _mean(values: list) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 3) if known else None
