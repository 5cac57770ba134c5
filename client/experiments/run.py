"""Simulate the runs of experiments. Each distinct run is simulated once; finished runs are skipped."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from concurrent.futures import Executor
from pathlib import Path

from fedn_partial.client.experiments import results
from fedn_partial.client.experiments.definitions import Experiment, PlannedRun
from fedn_partial.client.follow.progress import duration
from fedn_partial.errors import FednPartialError
from fedn_partial.seed_model.case_checks import check_case, check_fleet


def plan(experiments: list[Experiment]) -> dict[str, tuple[PlannedRun, str]]:
    """Return {digest: (run, label)} of all distinct runs in the order of execution."""
    runs: dict[str, tuple[PlannedRun, str]] = {}
    for experiment in experiments:
        labels: dict[str, str] = {}
        for cell in experiment.cells:
            for run in cell.runs:
                labels.setdefault(run.digest, f"{experiment.slug}, {cell.label}, seed {run.seed}")
        for run in experiment.runs:
            runs.setdefault(run.digest, (run, labels[run.digest]))
    return runs


def run_all(experiments: list[Experiment], folder: Path, source: Path | None, pool: Executor | None) -> None:
    """Simulate the unfinished runs, each in a folder below `folder`, and write each result to the folder of its run.

    Parameters
    ----------
    source : folder with the official files of the data sets, optionally in one subfolder per data set.
    pool : process pool from ``simulation.workers.workers``; None if all runs are finished.

    Raises
    ------
    FednPartialError : a case cannot be simulated (before the first run starts), or a session failed.
    """
    unfinished = {digest: item for digest, item in plan(experiments).items() if not is_finished(folder, digest)}
    _check(unfinished.values(), source)
    started = time.monotonic()
    for number, (run, label) in enumerate(unfinished.values(), start=1):
        run_started = time.monotonic()
        result = _run(run, folder / run.digest, source, pool)
        now = time.monotonic()
        left = (now - started) / number * (len(unfinished) - number)
        _clear()
        print(
            f"{number:3d} of {len(unfinished)}  {label}: accuracy {result.accuracy:.3f}, {now - run_started:.0f} s"
            + (f"; about {duration(left)} left" if number < len(unfinished) else ""),
            flush=True,
        )


def _check(runs: Iterable[tuple[PlannedRun, str]], source: Path | None) -> None:
    """Raise FednPartialError if the case of a run cannot be simulated."""
    if source is not None and not source.is_dir():
        raise FednPartialError(f"--source: folder {source} does not exist")
    for run, label in runs:
        try:
            case = run.case()
            check_fleet(case)
            check_case(case)
        except FednPartialError as error:
            raise FednPartialError(f"{label}: {error}") from None


def is_finished(folder: Path, digest: str) -> bool:
    return (folder / digest / results.FILE).exists()


def _run(run: PlannedRun, folder: Path, source: Path | None, pool: Executor) -> results.Result:
    from fedn_partial.client import simulation

    case = run.case()
    shards = simulation.prepared(case, folder.parent / "data", source_of(source, case.data.name))
    final = simulation.simulate(case, folder, source, pool, shards, _show, print_line=lambda line: None)
    if final["problem"]:
        raise FednPartialError(f"{folder}: {final['problem']}; see its rounds.jsonl")
    result = results.summarise(run, folder, shards)
    results.write(result, folder)
    return result


def source_of(source: Path | None, data_set: str) -> Path | None:
    """Return the folder of a data set's files: the subfolder of `source` with its name, else `source`."""
    subfolder = source / data_set if source else None
    return subfolder if subfolder and subfolder.is_dir() else source


def _show(event: dict) -> None:
    if sys.stdout.isatty():
        _clear()
        print(
            f"round {event['round']} of {event['rounds']}, accuracy {event['accuracy']:.3f}",
            end="",
            flush=True,
        )


def _clear() -> None:
    if sys.stdout.isatty():
        print("\r\033[K", end="")
