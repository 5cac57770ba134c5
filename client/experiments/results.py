"""Summarise runs as results: one line of JSON per run in a file that is stored in the repository."""

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

FILE = "result.json"  # name of the result in the folder of a finished run
LAST = 3  # rounds at the end of a run over which its accuracy is averaged, to reduce its variance


@dataclass(frozen=True)
class Result:
    """The result of one run; lists by round have one item per round.

    Attributes
    ----------
    digest, settings : see ``PlannedRun``.
    floor : accuracy of always predicting the most common class of the training examples, 0 to 1.
    accuracies : accuracy of the global model on all clients' test examples by round, 0 to 1.
    upload_bytes, training_macs : sums over the clients by round.
    full_bytes : bytes of a round in which every client sends every layer as float32.
    layers : names of the layers, from input to output.
    trained : {client: number of rounds in which it trained each layer}.
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
        """Return accuracy and number of rounds at which the cumulated costs reach a budget, interpolated linearly.

        None if the first round exceeds the budget. The accuracy is not averaged over rounds, as the last rounds of an
        expensive method are a larger share of its training.

        Parameters
        ----------
        costs : costs by round: `upload_bytes` or `training_macs`.
        budget : limit of their sum.
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
    folder : folder of the run.
    shards : folder of its clients' shards.

    Raises
    ------
    FednPartialError : no client tested the model of a round.
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
    majority = int(train.argmax())
    return float(test[majority] / test.sum()) if majority < len(test) else 0.0


def write(result: Result, folder: Path) -> None:
    """Write the result of a run to the folder of the run."""
    write_text(folder / FILE, _line(result))


def collect(folder: Path, runs: list[PlannedRun]) -> dict[str, Result]:
    """Return {digest: result} of the finished runs below `folder`."""
    results = {}
    for run in runs:
        path = folder / run.digest / FILE
        if path.exists():
            results[run.digest] = _parse(path.read_text(), str(path))
    return results


def read_all(path: Path) -> dict[str, Result]:
    """Return {digest: result} from the file of all results, or an empty dict if it does not exist."""
    if not path.exists():
        return {}
    lines = path.read_text().splitlines()
    results = [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
    return {result.digest: result for result in results}


def write_all(path: Path, results: dict[str, Result]) -> None:
    """Write the file of all results, sorted by digest."""
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
        raise FednPartialError(f"{where}: the settings do not match the digest {result.digest}; remove the result")
    return result
