"""The result of a run, small enough for the repository: one line of JSON in a file of all results."""

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
from fedn_partial.client.records.run_folder import weighted_mean
from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import write_text

FILE = "result.json"  # in the folder of a finished run
LAST = 3  # a run's accuracy is the mean over so many last rounds: that of a single round varies much


@dataclass(frozen=True)
class Result:
    """The figures of one run; lists have an item for each round.

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
        """Return accuracy and rounds where a budget is used up, interpolated between two rounds.

        None if the first round costs more. It is not a mean over rounds: the last rounds of an expensive method reach
        back to a larger share of its training.

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
    """Return the result of a finished run.

    Parameters
    ----------
    folder : of the run. shards : folder with its clients' data.

    Raises
    ------
    FednPartialError : a round has no test result.
    """
    records = load_run(folder)
    layers = list(records.session["layers"])
    rounds = [
        [row for row in records.rows if row.round == number] for number in range(1, run.case().session.rounds + 1)
    ]
    accuracies = [weighted_mean(rows, "accuracy") for rows in rounds]
    if None in accuracies:
        raise FednPartialError(
            f"{folder}: no client tested the model of round {accuracies.index(None) + 1}; run the experiment again"
        )
    clients = sorted({row.client for row in records.rows}, key=lambda name: (len(name), name))
    trained = {client: Counter() for client in clients}
    for row in records.rows:
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
    """Return the accuracy of always predicting the most common class of the training examples."""
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
    """Return {digest: result} of the runs that are finished, from the folder of all runs."""
    results = {}
    for run in runs:
        path = folder / run.digest / FILE
        if path.exists():
            results[run.digest] = _parse(path.read_text(), str(path))
    return results


def read_all(path: Path) -> dict[str, Result]:
    """Return {digest: result} from the file of all results, empty if it does not exist."""
    if not path.exists():
        return {}
    lines = path.read_text().splitlines()
    results = [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
    return {result.digest: result for result in results}


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
