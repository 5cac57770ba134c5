"""Sessions without FEDn: the same settings, training, updates and server functions, with simulated clients."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from fedn_partial.client.data.prepare import prepare
from fedn_partial.client.fleet import processes
from fedn_partial.client.simulation import devices
from fedn_partial.client.simulation.session import SimulatedSession
from fedn_partial.custom import modules, names
from fedn_partial.data.shard import open_shard, verify
from fedn_partial.errors import FednPartialError
from fedn_partial.seed_model.case_checks import check_case, check_clients, check_data, check_fleet
from fedn_partial.settings.case import Case


def simulate(
    case: Case,
    folder: Path,
    source: Path | None,
    pool: Executor,
    data: Path | None = None,
    on_event: Callable[[dict], None] = lambda event: None,
    print_line: Callable[[str], None] = print,
) -> dict:
    """Run `case` in the run's folder `folder`, go on there after a kill, or do nothing if it is done.

    Parameters
    ----------
    source : folder with the data set's official files, or None, see ``data_sets.partition_case``.
    pool : of ``workers.workers``.
    data : folder with the clients' shards as ``data prepare`` writes it; without, the case's own data are
        partitioned, into the folder `data` beside `folder`.
    on_event : called with each round as a dict, see fedn_partial.client.follow.progress.
    print_line : called with each line of progress.

    Returns
    -------
    The final metrics.

    Raises
    ------
    FednPartialError : the folder is another run's, or the case cannot be simulated.
    """
    check_case(case)
    machines = devices.devices(case)
    if data is None:
        check_fleet(case)
    shards = _shards(data or prepared(case, folder.parent / "data", source))
    digest = _digest(shards)
    previous = _previous_session(folder, case, digest)
    if previous.get("final", {}).get("rounds") == case.session.rounds:
        return previous["final"]
    check_clients(case, len(shards), "the number of clients that the data were partitioned across")
    if data is not None:
        for shard in shards.values():
            verify(shard)
    check_data(case, map(open_shard, shards.values()))
    used = {"simulated": True, "data_digest": digest} | _other_data(case, shards)
    session = used | {key: previous[key] for key in ("started",) if previous}
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"{folder}: another process is running this simulation"
    with processes.locked(folder / "lock", busy), _quiet():
        try:
            return SimulatedSession(case, folder, session, shards, machines, pool).play(on_event, print_line)
        except BrokenProcessPool:
            raise FednPartialError(
                "a worker process was killed, for memory perhaps: start the same again with fewer --processes; it goes "
                "on from the last round"
            ) from None


def prepared(case: Case, parent: Path, source: Path | None) -> Path:
    """Return the folder below `parent` with the shards of the case's clients, made if it is not there."""
    description = [dataclasses.asdict(case.data), case.seed, source and str(source.resolve())]
    if names.is_custom(case.data.name):  # a reader that was edited may read other data
        description.append(names.source_digest(case.data.name))
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:12]
    folder = parent / f"{case.data.name.replace(':', '-')}-{digest}"
    if not folder.exists():
        try:
            prepare(case.data, case.seed, source, folder)
        except FednPartialError:
            if not folder.exists():  # if it does, another simulation was faster
                raise
    return folder


def _previous_session(folder: Path, case: Case, data: str) -> dict:
    """Return session.json of a run that `folder` already holds, or nothing.

    Raises
    ------
    FednPartialError : it is not a simulation, or one of another case or with other data.
    """
    try:
        session = json.loads((folder / "session.json").read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise FednPartialError(f"{folder}/session.json is damaged ({error}); remove {folder} to begin anew") from None
    if session.get("simulated") is not True or not isinstance(session.get("settings"), dict):
        raise FednPartialError(f"{folder} holds something else than a simulated run; name another folder")
    settings = json.loads(json.dumps(dataclasses.asdict(case)))
    differing = [key for key, value in settings.items() if session["settings"].get(key) != value]
    differing += ["data"] if session.get("data_digest") != data else []
    custom = modules.active()
    if session.get("custom_modules") != (custom and custom.digests()):
        differing.append("custom modules")
    if differing:
        raise FednPartialError(
            f"{folder} holds a run with other settings ({', '.join(differing)}); name another folder"
        )
    return session


def _shards(folder: Path) -> dict[str, Path]:
    """Return {client: folder of its data}, client-2 before client-10."""
    shards = {path.parent.name: path.parent for path in folder.glob("*/shard.json")}
    if not shards:
        raise FednPartialError(f"{folder} holds no clients' data; 'fedn-partial data prepare' writes them")
    partitioned = json.loads(next(iter(shards.values())).joinpath("shard.json").read_text()).get("clients", len(shards))
    if len(shards) != partitioned:
        raise FednPartialError(
            f"{folder} has the data of {len(shards)} clients, but they were partitioned across {partitioned}"
        )
    return {name: shards[name] for name in sorted(shards, key=lambda name: (len(name), name))}


def _other_data(case: Case, shards: dict[str, Path]) -> dict:
    """Return what the clients' data are by their own description, with the keys of a case's section `data`, for a
    run's session.json; nothing if they are those that the case asks for."""
    origin = json.loads((next(iter(shards.values())) / "shard.json").read_text())
    used = {
        "name": origin.get("data_set", origin.get("source")),
        "clients": len(shards),
        "partition": origin.get("partition"),
        "examples": origin.get("examples"),
        "test_examples": origin.get("test_examples"),
    }
    if case.data is not None and origin.get("seed") == case.seed:
        requested = dataclasses.asdict(case.data)  # of all examples where it names no number
        if all(value == used[key] for key, value in requested.items() if value is not None):
            return {}
    return {"data": used}


def _digest(shards: dict[str, Path]) -> str:
    """Return a hash of what the clients' data are: their descriptions, with checksums."""
    digest = hashlib.sha256()
    for name, folder in shards.items():
        digest.update(f"{name} ".encode() + (folder / "shard.json").read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _quiet() -> Iterator[None]:
    """Let the server functions, which log a line a client, speak of problems only."""
    from fedn.common.log_config import logger  # which sets its level when it is imported

    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
