"""Simulate sessions without FEDn, using the settings, local training, updates and server functions of real ones."""

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
    """Simulate `case` and write the run to `folder`; resume a killed run, and return at once if the run is complete.

    Parameters
    ----------
    source : folder with the official files of the data set, or None, see ``data_sets.partition_case``.
    pool : process pool from ``workers.workers``.
    data : folder with the clients' shards as written by ``data prepare``. By default, the data of the case are
        partitioned into the folder `data` beside `folder`.
    on_event : called with the event of each round, see ``fedn_partial.client.follow.progress``.
    print_line : called with each line of progress.

    Returns
    -------
    The final metrics.

    Raises
    ------
    FednPartialError : the folder contains another run, or the case cannot be simulated.
    """
    check_case(case)
    timings = devices.device_timings(case)
    if data is None:
        check_fleet(case)
    shards = _shards(data or prepared(case, folder.parent / "data", source))
    digest = _digest(shards)
    previous = _previous_session(folder, case, digest)
    if previous.get("final", {}).get("rounds") == case.session.rounds:
        return previous["final"]
    check_clients(case, len(shards), "the number of clients across which the data are partitioned")
    if data is not None:
        for shard in shards.values():
            verify(shard)
    check_data(case, map(open_shard, shards.values()))
    session = {"simulated": True, "data_digest": digest} | _data_override(case, shards)
    session |= {key: previous[key] for key in ("started",) if previous}
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"{folder}: another process is running this simulation"
    with processes.locked(folder / "lock", busy), _log_warnings_only():
        try:
            return SimulatedSession(case, folder, session, shards, timings, pool).run(on_event, print_line)
        except BrokenProcessPool:
            raise FednPartialError(
                "a worker process was killed, possibly for lack of memory: repeat the command with fewer --processes; "
                "the simulation resumes after the last round"
            ) from None


def prepared(case: Case, parent: Path, source: Path | None) -> Path:
    """Return the folder below `parent` with the shards of the case's clients; create it if it does not exist."""
    description = [dataclasses.asdict(case.data), case.seed, source and str(source.resolve())]
    if names.is_custom(case.data.name):  # an edited reader may produce other data
        description.append(names.source_digest(case.data.name))
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:12]
    folder = parent / f"{case.data.name.replace(':', '-')}-{digest}"
    if not folder.exists():
        try:
            prepare(case.data, case.seed, source, folder)
        except FednPartialError:
            if not folder.exists():  # else another simulation has created it concurrently
                raise
    return folder


def _previous_session(folder: Path, case: Case, data: str) -> dict:
    """Return the content of session.json in `folder`, or an empty dict if there is none.

    Raises
    ------
    FednPartialError : the run is not a simulation, or is one of another case or with other data.
    """
    try:
        session = json.loads((folder / "session.json").read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise FednPartialError(f"{folder}/session.json is damaged ({error}); remove {folder} to start again") from None
    if session.get("simulated") is not True or not isinstance(session.get("settings"), dict):
        raise FednPartialError(f"{folder} contains a run that is not simulated; choose another folder")
    settings = json.loads(json.dumps(dataclasses.asdict(case)))
    differing = [key for key, value in settings.items() if session["settings"].get(key) != value]
    differing += ["data"] if session.get("data_digest") != data else []
    custom = modules.active()
    if session.get("custom_modules") != (custom and custom.digests()):
        differing.append("custom modules")
    if differing:
        raise FednPartialError(
            f"{folder} contains a run with other settings ({', '.join(differing)}); choose another folder"
        )
    return session


def _shards(folder: Path) -> dict[str, Path]:
    """Return {client: folder of its shard} in numeric order: client-2 before client-10."""
    shards = {path.parent.name: path.parent for path in folder.glob("*/shard.json")}
    if not shards:
        raise FednPartialError(f"{folder} contains no shards; create them with 'fedn-partial data prepare'")
    partitioned = json.loads(next(iter(shards.values())).joinpath("shard.json").read_text()).get("clients", len(shards))
    if len(shards) != partitioned:
        raise FednPartialError(
            f"{folder} contains the shards of {len(shards)} clients, but the data are partitioned across {partitioned}"
        )
    return {name: shards[name] for name in sorted(shards, key=lambda name: (len(name), name))}


def _data_override(case: Case, shards: dict[str, Path]) -> dict:
    """Return the entry "data" of session.json from the description of the shards, with the keys of a case's `data`.

    Return an empty dict if the shards are those that the case describes.
    """
    origin = json.loads((next(iter(shards.values())) / "shard.json").read_text())
    data = {
        "name": origin.get("data_set", origin.get("source")),
        "clients": len(shards),
        "partition": origin.get("partition"),
        "examples": origin.get("examples"),
        "test_examples": origin.get("test_examples"),
    }
    if case.data is not None and origin.get("seed") == case.seed:
        requested = dataclasses.asdict(case.data)  # numbers of examples that are None mean all examples
        if all(value == data[key] for key, value in requested.items() if value is not None):
            return {}
    return {"data": data}


def _digest(shards: dict[str, Path]) -> str:
    """Return a hash over the descriptions of the shards, which contain checksums of the data."""
    digest = hashlib.sha256()
    for name, folder in shards.items():
        digest.update(f"{name} ".encode() + (folder / "shard.json").read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _log_warnings_only() -> Iterator[None]:
    """Suppress FEDn's log below warnings: the server functions log a line per client."""
    from fedn.common.log_config import logger  # sets its level on import

    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
