"""What a run came to, small enough to be kept in the repository: one line of JSON each, in a file of them all."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from fedn_partial.client.experiments.definitions import PlannedRun
from fedn_partial.client.records.load import load_run
from fedn_partial.client.records.run_folder import over_examples
from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import write_text

FILE = "result.json"  # in a run's folder, when it is done
LAST = 3  # a run's accuracy is the mean over so many rounds at its end: one round's swings


@dataclass(frozen=True)
class Result:
    """One run's figures; lists have an item a round.

    Attributes
    ----------
    digest, settings : of the run.
    floor : share of the test examples in the class that most training examples have.
    accuracies : of the global model on all clients' test examples, 0 to 1.
    upload_bytes, training_macs : of all clients in that round.
    full_bytes : of all clients in a round, if each sent every layer as float32.
    layers : names, from input to output. trained : {client: how many rounds it trained each layer}.
    """

    digest: str
    settings: dict
    floor: float
    accuracies: list[float]
    upload_bytes: list[int]
    training_macs: list[int]
    full_bytes: int
    layers: list[str]
    trained: dict[str, list[int]]

    @property
    def accuracy(self) -> float:
        """Accuracy of the run, 0 to 1: the mean over its last `LAST` rounds."""
        last = self.accuracies[-LAST:]
        return sum(last) / len(last)

    def at(self, costs: list[int], budget: float) -> tuple[float, float] | None:
        """Return accuracy and rounds where a budget is used up, read off between two rounds; None before the first.

        It is no mean over rounds: those of a dear way cost more and reach further back, to when it had learnt less.

        Parameters
        ----------
        costs : of each round: `upload_bytes` or `training_macs`. budget : of all rounds together.
        """
        totals = list(accumulate(costs))
        if budget < totals[0]:
            return None
        rounds = range(1, len(totals) + 1)
        return float(np.interp(budget, totals, self.accuracies)), float(np.interp(budget, totals, rounds))


def summarise(run: PlannedRun, folder: Path, shards: Path) -> Result:
    """Return what a finished run came to.

    Parameters
    ----------
    folder : of the run. shards : folder with its clients' data.

    Raises
    ------
    FednPartialError : a round was not tested, or nothing came of it.
    """
    found = load_run(folder)
    layers = list(found.session["layers"])
    rounds = [[row for row in found.rows if row.round == number] for number in range(1, run.case().session.rounds + 1)]
    accuracies = [over_examples(rows, "accuracy") for rows in rounds]
    if None in accuracies:
        raise FednPartialError(f"{folder}: nobody tested the model of round {accuracies.index(None) + 1}")
    clients = sorted({row.client for row in found.rows}, key=lambda name: (len(name), name))
    trained = {client: Counter() for client in clients}
    for row in found.rows:
        trained[row.client].update(row.layers)
    return Result(
        digest=run.digest,
        settings=run.settings,
        floor=round(_floor(shards), 4),
        accuracies=[round(accuracy, 4) for accuracy in accuracies],
        upload_bytes=[sum(row.upload_bytes or 0 for row in rows) for rows in rounds],
        training_macs=[sum(row.training_macs or 0 for row in rows) for rows in rounds],
        full_bytes=4 * sum(row.total_params or 0 for row in rounds[0]),
        layers=layers,
        trained={client: [trained[client][name] for name in layers] for client in clients},
    )


def _floor(shards: Path) -> float:
    """Return the accuracy of always saying the class that most training examples have."""
    train, test = (
        np.bincount(np.concatenate([np.load(path) for path in sorted(shards.glob(f"*/y_{part}.npy"))]))
        for part in ("train", "test")
    )
    most = int(train.argmax())
    return float(test[most] / test.sum()) if most < len(test) else 0.0


def write(result: Result, folder: Path) -> None:
    """Write a run's result into its folder."""
    write_text(folder / FILE, _line(result))


def collect(folder: Path, runs: list[PlannedRun]) -> dict[str, Result]:
    """Return {digest: result} of those runs that are done in the folder of all runs."""
    found = {}
    for run in runs:
        path = folder / run.digest / FILE
        if path.exists():
            found[run.digest] = _parse(path.read_text(), str(path))
    return found


def read_all(path: Path) -> dict[str, Result]:
    """Return {digest: result} of the file of all results, nothing if it is not there."""
    if not path.exists():
        return {}
    lines = path.read_text().splitlines()
    found = [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
    return {result.digest: result for result in found}


def write_all(path: Path, results: dict[str, Result]) -> None:
    """Write the file of all results, in the order of their digests."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(_line(results[digest]) for digest in sorted(results)))


def _line(result: Result) -> str:
    return json.dumps(dataclasses.asdict(result), separators=(",", ":")) + "\n"


def _parse(text: str, where: str) -> Result:
    try:
        result = Result(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise FednPartialError(f"{where} is damaged ({error}); remove it, and run the experiment again") from None
    if PlannedRun(result.settings).digest != result.digest:
        raise FednPartialError(f"{where}: its settings are not those of {result.digest}; remove it")
    return result
