"""Run the rounds of a simulated session."""

from __future__ import annotations

import json
import os
import shutil
import time
from concurrent.futures import Executor
from pathlib import Path

import numpy as np

from fedn_partial.client.follow import progress
from fedn_partial.client.follow.poller import Round
from fedn_partial.client.records.load import load_run
from fedn_partial.client.records.outcome import Outcome
from fedn_partial.client.records.run_folder import Row, RunFolder
from fedn_partial.client.simulation import checkpoint, devices, workers
from fedn_partial.custom import modules
from fedn_partial.data.shard import count_examples
from fedn_partial.errors import FednPartialError, ModelError
from fedn_partial.exchange import wire
from fedn_partial.exchange.model_file import read_model
from fedn_partial.exchange.state import remove_arrays
from fedn_partial.runtime.atomic import write_atomically, write_text
from fedn_partial.runtime.client_state import ClientState
from fedn_partial.settings.case import Case, RoundSettings, with_max_examples
from fedn_partial.settings.schema import parse
from fedn_partial.submodel.layers import read_layers

SESSION = "simulation"


class SimulatedSession:
    """A simulated session, resumed from the checkpoint in its run folder if there is one.

    Parameters
    ----------
    session : overrides of session.json, see ``fedn_partial.client.records.run_folder.RunFolder``.
    shards : {client: folder of its shard}.
    timings : device timings, assigned to the clients cyclically; empty if times are not simulated.

    Attributes
    ----------
    rounds : completed rounds.

    Raises
    ------
    FednPartialError : a file in the folder is damaged, or no client can train.
    """

    def __init__(
        self,
        case: Case,
        folder: Path,
        session: dict,
        shards: dict[str, Path],
        timings: list[devices.DeviceTiming],
        pool: Executor,
    ):
        self.case, self.folder, self.shards, self.timings, self.pool = case, folder, shards, timings, pool
        custom = modules.active()
        self.custom = custom and str(custom.folder)
        self.checkpoint = checkpoint.read(self.folder)
        self.layers = self._load_layers()
        self.run_folder = RunFolder(folder, case, **session)
        self.run_folder.set_layers(self.layers)
        self.rounds = self._load_rounds()
        newest = wire.digest(_read_arrays(self._model_path(self.checkpoint.round)))
        limited = with_max_examples(case, map(count_examples, shards.values()))
        self.server = _server(limited, self.layers, newest, self.folder / "server.json", self.checkpoint.server)

    def run(self, on_event, print_line) -> dict:
        """Run the remaining rounds and return the final metrics."""
        started, completed = time.monotonic(), self.checkpoint.round
        for number in range(completed + 1, self.case.session.rounds + 1):
            self.rounds.append(self._run_round(number))
            event = progress.round_event(self.rounds[-1], self.case, len(self.layers))
            left = (time.monotonic() - started) / (number - completed) * (self.case.session.rounds - number)
            line = f"{progress.round_line(event)}  {progress.duration(left)} left"
            print_line("\n  ".join([line, *event["problems"]]))
            on_event(event)
        final = progress.summary(self.rounds, self.case)
        final["simulated_seconds"] = _total([round_.seconds for round_ in self.rounds])
        self.run_folder.finish(final)
        for name in ("states", "updates"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        remove_arrays(self.server.state_path())
        return final

    def _run_round(self, number: int) -> Round:
        model = self._model_path(number - 1)
        weights = _read_arrays(model)
        ids = {_fedn_id(name): name for name in self.shards}
        requested = [ids[id] for id in self.server.client_selection(list(ids))]
        message = self.server.client_settings(weights)
        settings = parse(RoundSettings, json.loads(json.dumps(message)), "settings from the server functions")
        answering = [
            name for name in requested if self._uniform(number, name, "dropout") >= self.case.simulation.dropout
        ]
        tasks = {name: self._task(name, settings, model) for name in answering}
        rows = {}
        for name, refusal in zip(tasks, self.pool.map(workers.train, tasks.values()), strict=True):
            row = rows[name] = self._merge_update(tasks[name], refusal, weights)
            row.download_bytes = os.path.getsize(model)
        refused = [row for row in rows.values() if row.outcome is Outcome.REFUSED]
        if refused and len(refused) == len(rows):
            raise FednPartialError(f"round {number}: no client can train; the first {refused[0].outcome_text()}")
        on_time = [name for name, row in rows.items() if row.outcome is not Outcome.LATE]
        if on_time:
            weights = self.server.get_incremental_aggregate_model()
            outcomes = self.server.state["previous"]
            for name in on_time:
                if _fedn_id(name) in outcomes["merged"]:
                    rows[name].outcome = Outcome.MERGED
                elif rows[name].outcome is Outcome.SENT:
                    rows[name].outcome, rows[name].reason = Outcome.SKIPPED, outcomes["skipped"][_fedn_id(name)]
        _write_arrays(self._model_path(number), weights)
        self._test(rows, settings, number)
        round_ = Round(
            id=str(number),
            status="Finished" if on_time else "Failed",
            number=number,
            warmup=settings.warmup,
            expected=len(requested),
            rows=rows,
            seconds=self._seconds(rows, requested),
        )
        self._commit(round_)
        return round_

    def _task(self, name: str, settings: RoundSettings, model: Path) -> workers.Task:
        timing = self._timing(name)
        return workers.Task(
            client=name,
            settings=settings,
            model=str(model),
            shard=str(self.shards[name]),
            max_layers=timing and timing.max_layers,
            state=str(self._state_folder(name)),
            update=str(self.folder / "updates" / f"{name}.npz"),
            custom=self.custom,
        )

    def _merge_update(self, task: workers.Task, refusal: str | None, weights: list) -> Row:
        """Pass a client's update to the server functions unless it is late, and return the client's row."""
        row = Row(
            round=task.settings.round,
            fedn_round=str(task.settings.round),
            client=task.client,
            warmup=task.settings.warmup,
        )
        if refusal is not None:
            row.outcome, row.reason = Outcome.REFUSED, refusal
            self.server.incremental_aggregate(_fedn_id(task.client), [], {"refused": refusal}, weights)
            return row
        update, metadata_file = Path(task.update), Path(task.update + "-metadata")
        arrays, text, update_bytes = _read_arrays(update), metadata_file.read_text(), update.stat().st_size
        update.unlink()  # the updates of 1,000 clients may exceed the disk
        metadata_file.unlink()
        metadata = json.loads(text)
        row.layers = [name for name in metadata["layers"] if name in self.server.settings["parameters"]]
        row.num_examples = int(metadata["num_examples"])
        for key in ("trained_params", "total_params", "training_macs", "train_loss", "limited"):
            setattr(row, key, metadata[key])
        row.upload_bytes = update_bytes + len(text)
        if timing := self._timing(task.client):
            examples = row.num_examples * self.case.training.epochs
            times = timing.seconds(len(row.layers), examples, row.upload_bytes, os.path.getsize(task.model))
            slow = self._uniform(row.round, task.client, "straggler") < self.case.simulation.straggler
            row.round_seconds, row.train_seconds = (
                round(seconds * (self.case.simulation.slowdown if slow else 1), 3) for seconds in times
            )
            row.ram_used_mb = timing.ram_mb(len(row.layers))
        if row.round_seconds is not None and row.round_seconds > self.case.session.round_timeout:
            timeout = self.case.session.round_timeout
            row.outcome, row.reason = Outcome.LATE, f"{row.round_seconds:.0f} s, round_timeout is {timeout}"
            return row
        self.server.incremental_aggregate(_fedn_id(task.client), arrays, metadata, weights)
        return row

    def _test(self, rows: dict[str, Row], settings: RoundSettings, number: int) -> None:
        """Test the new model on every client that did not refuse."""
        tasks = [
            workers.Task(
                client=name,
                settings=settings,
                model=str(self._model_path(number)),
                shard=str(self.shards[name]),
                state=str(self._state_folder(name)),
                custom=self.custom,
            )
            for name, row in rows.items()
            if row.outcome is not Outcome.REFUSED
        ]
        size = os.path.getsize(self._model_path(number))
        for task, metrics in zip(tasks, self.pool.map(workers.test, tasks), strict=True):
            row = rows[task.client]
            row.accuracy, row.loss, row.test_examples = map(metrics.get, ("accuracy", "loss", "test_examples"))
            row.download_bytes += size

    def _seconds(self, rows: dict[str, Row], requested: list[str]) -> float | None:
        """Return the simulated duration of a round: of its slowest client, or the timeout if a client dropped out."""
        if not self.timings:
            return None
        slowest = max((row.round_seconds or 0.0 for row in rows.values()), default=0.0)
        if len(rows) < len(requested):
            slowest = float(self.case.session.round_timeout)
        return min(slowest, float(self.case.session.round_timeout)) + self.case.simulation.global_seconds

    def _commit(self, round_: Round) -> None:
        """Write rows and checkpoint, then remove the model and the client states that they replace."""
        self.run_folder.write_rows(list(round_.rows.values()))
        self.checkpoint = checkpoint.Checkpoint(
            round=round_.number,
            rows_bytes=os.path.getsize(self.folder / "rounds.jsonl"),
            failed=self.checkpoint.failed + [round_.number] * round_.failed,
            seconds=[*self.checkpoint.seconds, round_.seconds],
            server=self.server.state,
        )
        checkpoint.write(self.folder, self.checkpoint)
        self._model_path(round_.number - 1).unlink(missing_ok=True)
        for name in round_.rows:
            ClientState(self._state_folder(name), SESSION, round_.number + 1).begin()

    def _load_layers(self) -> list:
        """Return the layers of the model; create the seed model before the first round, else check the newest model."""
        from fedn_partial import models
        from fedn_partial.seed_model.seed import build_seed

        (self.folder / "updates").mkdir(exist_ok=True)
        if self.checkpoint.round == 0:
            return build_seed(self.case, self._model_path(0))
        _read_arrays(self._model_path(self.checkpoint.round))
        return read_layers(models.build(self.case.model, empty=True))

    def _load_rounds(self) -> list[Round]:
        """Return the completed rounds of a resumed simulation."""
        rows = load_run(self.folder).rows if self.checkpoint.round else ()
        self.run_folder.rows = list(rows)
        rounds = {number: Round(str(number), number=number) for number in range(1, self.checkpoint.round + 1)}
        for row in rows:
            rounds[row.round].rows[row.client] = row
        for number, round_ in rounds.items():
            round_.seconds = self.checkpoint.seconds[number - 1]
            round_.status = "Failed" if number in self.checkpoint.failed else "Finished"
        return list(rounds.values())

    def _timing(self, name: str) -> devices.DeviceTiming | None:
        return self.timings[list(self.shards).index(name) % len(self.timings)] if self.timings else None

    def _uniform(self, number: int, name: str, purpose: str) -> float:
        return devices.uniform(self.case, number, name, purpose)

    def _model_path(self, number: int) -> Path:
        return self.folder / f"model-{number}.npz"

    def _state_folder(self, name: str) -> Path:
        return self.folder / "states" / name


def _server(case: Case, layers: list, model: str, path: Path, state: dict | None):
    """Return the server functions of the session.

    Parameters
    ----------
    model : digest of the newest global model.
    path : file in which the server functions store their state.
    state : initial state, or None.
    """
    from fedn_partial.seed_model import server_functions

    path.unlink(missing_ok=True)
    if state is not None:
        write_text(path, json.dumps(state))

    text = server_functions.source(server_functions.session_settings(case, layers, SESSION, model))

    class Server(server_functions.load(text)):
        def state_path(self):
            return str(path)

        def close(self):
            """Keep the files: after a kill, the last round is played again."""

    return Server()


def _fedn_id(name: str) -> str:
    """Return the FEDn id of a simulated client; it differs from the name, as in FEDn."""
    return f"id of {name}"


def _read_arrays(path: Path) -> list[np.ndarray]:
    try:
        return list(read_model(str(path)))
    except ModelError as error:
        raise FednPartialError(f"{path} is missing or damaged ({error}); remove {path.parent} to start again") from None


def _write_arrays(path: Path, arrays: list[np.ndarray]) -> None:
    with write_atomically(path) as file:
        np.savez(file, **{str(index): array for index, array in enumerate(arrays)})


def _total(seconds: list[float | None]) -> float | None:
    return None if None in seconds else round(sum(seconds), 3)
