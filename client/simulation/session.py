"""A simulated session, round by round."""

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
from fedn_partial.settings.case import Case, RoundSettings, with_max_examples
from fedn_partial.settings.schema import parse
from fedn_partial.submodel.layers import read_layers

SESSION = "simulation"


class SimulatedSession:
    """A session that is under way, in the run's folder `folder`.

    Parameters
    ----------
    session : keys of session.json, see ``fedn_partial.client.records.run_folder.RunFolder``.

    Attributes
    ----------
    shards : {client: folder of its data}. machines : of the clients, in turn; none if times are not simulated.
    rounds : those that are over.

    Raises
    ------
    FednPartialError : what the folder holds is wrong, or no client can train.
    """

    def __init__(
        self,
        case: Case,
        folder: Path,
        session: dict,
        shards: dict[str, Path],
        machines: list[devices.DeviceTiming],
        pool: Executor,
    ):
        self.case, self.folder, self.shards, self.devices, self.pool = case, folder, shards, machines, pool
        custom = modules.active()
        self.custom = custom and str(custom.folder)
        self.checkpoint = checkpoint.read(self.folder)
        self.layers = self._begin_models()
        self.run = RunFolder(folder, case, **session)
        self.run.know_layers(self.layers)
        self.rounds = self._rounds_before()
        newest = wire.digest(_read_arrays(self._model_path(self.checkpoint.round)))
        limited = with_max_examples(case, map(count_examples, shards.values()))
        self.server = _server(limited, self.layers, newest, self.folder / "server.json", self.checkpoint.server)

    def play(self, on_event, print_line) -> dict:
        """Play the rounds that are left and return the final metrics."""
        began, first = time.monotonic(), self.checkpoint.round
        for number in range(first + 1, self.case.session.rounds + 1):
            self.rounds.append(self._round(number))
            figures = progress.figures(self.rounds[-1], self.case, len(self.layers))
            left = (time.monotonic() - began) / (number - first) * (self.case.session.rounds - number)
            print_line("\n  ".join([f"{progress.line(figures)}  {progress.duration(left)} left", *figures["problems"]]))
            on_event(figures)
        final = progress.summary(self.rounds, self.case)
        final["simulated_seconds"] = _total([round_.seconds for round_ in self.rounds])
        self.run.finish(final)
        for name in ("states", "updates"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        remove_arrays(self.server.state_path())
        return final

    def _round(self, number: int) -> Round:
        before = self._model_path(number - 1)
        weights = _read_arrays(before)
        ids = {_fedn_id(name): name for name in self.shards}
        requested = [ids[id] for id in self.server.client_selection(list(ids))]
        message = self.server.client_settings(weights)
        settings = parse(RoundSettings, json.loads(json.dumps(message)), "settings from the server functions")
        answering = [
            name for name in requested if self._chance(number, name, "dropout") >= self.case.simulation.dropout
        ]
        tasks = {name: self._task(name, settings, before) for name in answering}
        rows, states = {}, dict(self.checkpoint.states)
        for name, refusal in zip(tasks, self.pool.map(workers.train, tasks.values()), strict=True):
            row = rows[name] = self._receive(tasks[name], refusal, weights)
            row.download_bytes = os.path.getsize(before)
            if refusal is None and settings.stateful:
                states[name] = number
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
        self._test(rows, settings, number, states)
        round_ = Round(
            id=str(number),
            status="Finished" if on_time else "Failed",
            number=number,
            warmup=settings.warmup,
            expected=len(requested),
            rows=rows,
            seconds=self._seconds(rows, requested),
        )
        self._keep(round_, states)
        return round_

    def _task(self, name: str, settings: RoundSettings, model: Path) -> workers.Task:
        device = self._device(name)
        return workers.Task(
            client=name,
            settings=settings,
            model=str(model),
            shard=str(self.shards[name]),
            max_layers=device and device.max_layers,
            state=self._state(name, self.checkpoint.states),
            new_state=str(self._state_path(name, settings.round)),
            update=str(self.folder / "updates" / f"{name}.npz"),
            custom=self.custom,
        )

    def _receive(self, task: workers.Task, refusal: str | None, weights: list) -> Row:
        """Hand a client's update to the server functions, and return the client's row."""
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
        update, beside = Path(task.update), Path(task.update + "-metadata")
        arrays, text, sent_bytes = _read_arrays(update), beside.read_text(), update.stat().st_size
        update.unlink()  # those of 1,000 clients may not fit the disk together
        beside.unlink()
        metadata = json.loads(text)
        row.layers = [name for name in metadata["layers"] if name in self.server.settings["parameters"]]
        row.num_examples = int(metadata["num_examples"])
        for key in ("trained_params", "total_params", "training_macs", "train_loss", "limited"):
            setattr(row, key, metadata[key])
        row.upload_bytes = sent_bytes + len(text)
        if device := self._device(task.client):
            examples = row.num_examples * self.case.training.epochs
            times = device.seconds(len(row.layers), examples, row.upload_bytes, os.path.getsize(task.model))
            slow = self._chance(row.round, task.client, "straggler") < self.case.simulation.straggler
            row.round_seconds, row.train_seconds = (
                round(seconds * (self.case.simulation.slowdown if slow else 1), 3) for seconds in times
            )
            row.ram_used_mb = device.ram_mb(len(row.layers))
        if row.round_seconds is not None and row.round_seconds > self.case.session.round_timeout:
            timeout = self.case.session.round_timeout
            row.outcome, row.reason = Outcome.LATE, f"{row.round_seconds:.0f} s, round_timeout is {timeout}"
            return row
        self.server.incremental_aggregate(_fedn_id(task.client), arrays, metadata, weights)
        return row

    def _test(self, rows: dict[str, Row], settings: RoundSettings, number: int, states: dict[str, int]) -> None:
        """Let every client that answered test the new model."""
        tasks = [
            workers.Task(
                client=name,
                settings=settings,
                model=str(self._model_path(number)),
                shard=str(self.shards[name]),
                state=self._state(name, states),
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
        """Return the simulated seconds of a round: its slowest client's, or the timeout if somebody never answers."""
        if not self.devices:
            return None
        slowest = max((row.round_seconds or 0.0 for row in rows.values()), default=0.0)
        if len(rows) < len(requested):
            slowest = float(self.case.session.round_timeout)
        return min(slowest, float(self.case.session.round_timeout)) + self.case.simulation.global_seconds

    def _keep(self, round_: Round, states: dict[str, int]) -> None:
        """Write rows and checkpoint, then remove what no longer counts."""
        self.run.write_rows(list(round_.rows.values()))
        old, self.checkpoint = (
            self.checkpoint,
            checkpoint.Checkpoint(
                round=round_.number,
                rows_bytes=os.path.getsize(self.folder / "rounds.jsonl"),
                failed=self.checkpoint.failed + [round_.number] * round_.failed,
                seconds=[*self.checkpoint.seconds, round_.seconds],
                server=self.server.state,
                states=states,
            ),
        )
        checkpoint.write(self.folder, self.checkpoint)
        self._model_path(round_.number - 1).unlink(missing_ok=True)
        for name, number in old.states.items():
            if states[name] != number:
                shutil.rmtree(self._state_path(name, number), ignore_errors=True)

    def _begin_models(self) -> list:
        from fedn_partial import models
        from fedn_partial.seed_model.seed import build_seed

        (self.folder / "updates").mkdir(exist_ok=True)
        if self.checkpoint.round == 0:
            return build_seed(self.case, self._model_path(0))
        _read_arrays(self._model_path(self.checkpoint.round))
        return read_layers(models.build(self.case.model, empty=True))

    def _rounds_before(self) -> list[Round]:
        """Return the rounds that were played before this process began."""
        rows = load_run(self.folder).rows if self.checkpoint.round else ()
        self.run.rows = list(rows)
        rounds = {number: Round(str(number), number=number) for number in range(1, self.checkpoint.round + 1)}
        for row in rows:
            rounds[row.round].rows[row.client] = row
        for number, round_ in rounds.items():
            round_.seconds = self.checkpoint.seconds[number - 1]
            round_.status = "Failed" if number in self.checkpoint.failed else "Finished"
        return list(rounds.values())

    def _device(self, name: str) -> devices.DeviceTiming | None:
        return self.devices[list(self.shards).index(name) % len(self.devices)] if self.devices else None

    def _chance(self, number: int, name: str, purpose: str) -> float:
        return devices.chance(self.case, number, name, purpose)

    def _model_path(self, number: int) -> Path:
        return self.folder / f"model-{number}.npz"

    def _state_path(self, name: str, number: int) -> Path:
        return self.folder / "states" / name / str(number)

    def _state(self, name: str, states: dict[str, int]) -> str | None:
        return str(self._state_path(name, states[name])) if name in states else None


def _server(case: Case, layers: list, model: str, path: Path, state: dict | None):
    """Return the session's server functions, which keep their state in the file `path`, beginning with `state`.

    Parameters
    ----------
    model : digest of the newest global model.
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
    """Return what a client has in the place of FEDn's id: as there, the server functions have to learn its name."""
    return f"id of {name}"


def _read_arrays(path: Path) -> list[np.ndarray]:
    try:
        return list(read_model(str(path)))
    except ModelError as error:
        raise FednPartialError(f"{path} is missing or damaged ({error}); remove {path.parent} to begin anew") from None


def _write_arrays(path: Path, arrays: list[np.ndarray]) -> None:
    with write_atomically(path) as file:
        np.savez(file, **{str(index): array for index, array in enumerate(arrays)})


def _total(seconds: list[float | None]) -> float | None:
    return None if None in seconds else round(sum(seconds), 3)
