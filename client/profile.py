"""Resource profiles: what a case costs flavours of machines at several numbers of layers (the paper's Tables 4, 5).

Each cell of the table is a session of its own on a local FEDn network, with one client, in a container. A profile's
folder holds ``profile.json`` and a run's folder for each cell.
"""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import yaml

from fedn_partial import datasets, models, selection
from fedn_partial.client import progress
from fedn_partial.client.containers import ClientContainer
from fedn_partial.client.flavours import Flavour
from fedn_partial.client.local_run import local_network, uninterrupted
from fedn_partial.client.report import paper
from fedn_partial.client.report.load import Cell, load
from fedn_partial.client.runs import Row, RunFolder, describe, new_folder
from fedn_partial.client.watch import Watcher
from fedn_partial.errors import FednPartialError
from fedn_partial.layers import layer_table
from fedn_partial.seed_model.api import Api
from fedn_partial.seed_model.seed import build_seed, upload_seed
from fedn_partial.seed_model.session import start_session
from fedn_partial.settings import Case

READY_TIMEOUT = 300  # seconds; on one processor TensorFlow's import takes a while
TEST_EXAMPLES = 32
CLIENT = "profile"  # one name in all cells, so that the same layers are drawn in each flavour


def run_profile(
    case: Case,
    engine,
    image: str,
    flavours: list[Flavour],
    refused: dict[str, str],
    layers: list[int],
    shard: datasets.Shard,
    parent: Path,
    tell: Callable[[dict], None],
) -> Path:
    """Train `case` on each flavour at each number of layers, and return the folder of the profile below `parent`.

    Parameters
    ----------
    engine, image : see fedn_partial.client.containers.connect. refused : flavours that are left out, and why.
    layers : numbers of layers; ``check_layers`` has seen them.
    tell : called with each cell as a dict, and with each of its rounds.

    Raises
    ------
    FednPartialError : something did not come up, or a client ended, and not for memory. profile.json keeps the
    cells that were done.
    """
    path = new_folder(parent, f"profile-{case.name}")
    profile = {
        "kind": "profile",
        **describe(case),
        "examples": len(shard.y_train),
        "rounds": case.session.rounds,
        "cells": [],
        "refused": refused,
    }
    with local_network(path) as (network, api):
        print("building seed model", flush=True)
        table = build_seed(case, path / "seed.npz")
        upload_seed(api, path / "seed.npz")
        for flavour in flavours:
            for number in layers:
                print(f"\n{flavour.name}, {number} of {len(table)} layers", flush=True)
                folder = RunFolder(path / f"{flavour.name}-{number}", _with_layers(case, number))
                home = folder.path / "client"
                prepare_client(home, shard, network.url)
                container = ClientContainer(engine, image, flavour, home)
                empty = Cell(flavour.name, number, flavour.cpus, flavour.memory_mib, len(table))
                try:
                    container.start()
                    _wait_until_alone(api, container)
                    cell = _measure(empty, api, network, container, folder, tell)
                finally:
                    with uninterrupted():
                        container.stop()
                told = {**asdict(cell), "run": folder.path.name}
                profile["cells"].append(told)
                (path / "profile.json").write_text(json.dumps(profile, indent=1) + "\n")
                tell({"event": "cell", **told})
    return path


def check_layers(case: Case, layers: list[int]) -> None:
    """Raise FednPartialError if the model of `case` cannot train one of these numbers of layers."""
    table = layer_table(models.build(case.model, empty=True))
    always = set(_always(case))
    for number in layers:
        if not max(1, len(always)) <= number <= len(table):
            raise FednPartialError(
                f"--layers: {number} is not from {max(1, len(always))} to {len(table)}, the layers of this model"
                + (f" ({', '.join(sorted(always))} always trained)" if always else "")
            )


def made_up_shard(case: Case, examples: int) -> datasets.Shard:
    """Return random data that fit the model of `case`: what training costs does not depend on them."""
    model = models.build(case.model, empty=True)
    random = np.random.default_rng(case.seed)
    classes = max(2, model.output.shape[-1])

    def draw(count: int):
        shape = (count, *model.input.shape[1:])
        if model.input.dtype == "int32":
            x = random.integers(0, 1000, shape).astype(np.int32)
        elif len(shape) == 4:
            x = random.integers(0, 256, shape, dtype=np.uint8)
        else:
            x = random.random(shape, dtype=np.float32)
        return x, random.integers(0, classes, count).astype(np.int32)

    return datasets.Shard(*draw(examples), *draw(TEST_EXAMPLES), tuple(f"class {n}" for n in range(classes)))


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


def prepare_client(home: Path, shard: datasets.Shard, url: str) -> None:
    datasets.write_shard(home / "data", shard, "made up for a profile")
    # An id of its own: to FEDn, the client of the last cell is another one that went away.
    config = {"name": CLIENT, "client_id": str(uuid.uuid4()), "api_url": url, "fedn_partial": {"data": "data"}}
    (home / "client.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def _wait_until_alone(api: Api, container: ClientContainer) -> None:
    """Wait until this client is connected, and FEDn has noticed that the last one is gone."""
    own = yaml.safe_load((container.home / "client.yaml").read_text())["client_id"]
    deadline = time.monotonic() + READY_TIMEOUT
    while time.monotonic() < deadline:
        container.check()
        online = {client["client_id"] for client in api.get("clients/", params={"status": "online"})["result"]}
        if online == {own}:
            return
        time.sleep(0.5)
    raise FednPartialError(f"the client is not connected after {READY_TIMEOUT} s; its log ends:\n{container.log(8)}")


def _measure(cell: Cell, api: Api, network, container: ClientContainer, folder: RunFolder, tell) -> Cell:
    """Run a session in `container`, and return `cell` with its figures."""

    def check():
        network.check()
        container.check()

    case = folder.case
    session_id, table = start_session(api, case)
    ended = None
    try:
        progress.follow(Watcher(api, session_id), case, table, folder, check=check, tell=tell)
    except FednPartialError as error:
        ended = str(error)
        if not container.memory_kills():
            raise
    return fill(cell, folder.rows, container.memory_kills(), ended)


def fill(cell: Cell, rows: list[Row], memory_kills: int, ended: str | None = None) -> Cell:
    """Return `cell` with the figures of its rows.

    Parameters
    ----------
    memory_kills : how often the kernel killed a process of the container for memory.
    ended : why the session ended early, or None.
    """
    trained = [row for row in rows if row.layers]
    whole = [row for row in trained if len(row.layers) == cell.layers]
    reasons = list(dict.fromkeys(filter(None, [*(row.limited or _refusal(row) for row in rows), ended])))
    if memory_kills and not whole:
        fewer = f"; then trained {_mean([len(row.layers) for row in trained]):.1f} layers" if trained else ""
        return dataclasses.replace(
            cell, killed=f"killed in round {len(rows) or 1} of its session{fewer}: {'; '.join(reasons) or 'no update'}"
        )
    measured = whole or trained
    limited = None
    if len(whole) < len(rows) or not rows:
        mean = _mean([len(row.layers) for row in rows]) or 0
        limited = (
            f"{mean:.1f} of {cell.layers} layers in {len(rows)} rounds: {'; '.join(reasons) or 'no round was trained'}"
        )
    return dataclasses.replace(
        cell,
        rounds=len(measured),
        seconds=_mean([row.train_seconds for row in measured]),
        round_seconds=_mean([row.round_seconds for row in measured]),
        cpu_percent=_mean([row.machine_cpu_percent for row in measured]),
        ram_mb=max((row.ram_used_mb for row in measured if row.ram_used_mb is not None), default=None),
        ram_percent=max((row.ram_percent for row in measured if row.ram_percent is not None), default=None),
        limited=limited,
    )


def _refusal(row: Row) -> str | None:
    return row.outcome.partition(": ")[2] if row.outcome.startswith(("refused", "skipped")) else None


def _mean(values: list) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 3) if known else None
