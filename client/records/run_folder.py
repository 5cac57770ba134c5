"""A run's folder: what was asked for, and one line for each client and round.

``runs/NAME/session.json`` holds settings, versions, seed, SHA-256 of the custom modules, the model's layers, final
metrics, and what the server functions noted on whole rounds;
``runs/NAME/rounds.jsonl`` one JSON object for each client and round, with the columns below.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import itertools
import json
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import fedn_partial
from fedn_partial.client.records.outcome import Outcome
from fedn_partial.client.records.outcome import describe as describe_outcome
from fedn_partial.custom import modules
from fedn_partial.device import cgroup
from fedn_partial.runtime.atomic import append_text, write_text
from fedn_partial.settings.case import Case
from fedn_partial.submodel.layers import Layer


@dataclass
class Row:
    """One client in one round: the columns of rounds.jsonl. What is not known is null. MB are 10**6 bytes.

    Attributes
    ----------
    round : of the session, from 1, as the server functions count.
    fedn_round : FEDn's own number of it.
    client : name.
    outcome, reason : see ``fedn_partial.client.records.outcome``; the reason is null where there is none.
    warmup : whether it was a full round.
    layers : names of the layers that were trained and sent.
    limited : why the device trained fewer layers than it was asked for, null if it did not.
    trained_params, total_params : weights in these layers, and in the model.
    num_examples : training examples.
    training_macs : multiply-accumulates of the training, see ``fedn_partial.device.costs.training_macs``.
    upload_bytes : of the update as they left through gRPC, model and message with its metadata. FEDn's own client
        does not count; for it, the update file and the metadata as they arrived, which are 10 to 20 kB more: it sends
        the session's settings back. Status messages, with which FEDn sends the metadata once more, are not in it.
    download_bytes : of the global models that came: the one to train, and the one to validate.
    train_seconds : in the training loop.
    round_seconds : from the request to the update's upload, download of the model included.
    phases : seconds of load, import, trace, train, encode.
    cpu_seconds, cpu_percent : of the training request's processes; 100 % is one processor.
    rss_peak_mb : highest resident memory of these processes.
    memory_peak_mb : highest anonymous memory of FEDn's client and these processes at the end of a phase, pages that
        they share counted once: what the device needs. predicted_memory_mb : what was predicted before the training.
    machine_cpu_percent : mean load of the machine's processors, or of the control group's if they are limited.
    ram_used_mb, ram_percent : highest memory in use on the machine, or in the control group if that is limited.
    gpu_percent : mean load of the board's GPU (Jetsons). temperature_c : highest of its zones, in degrees Celsius.
    power_mw : mean power in mW through the input rail of a Jetson module, from whatever it is used for.
    train_loss : mean over the last local epoch.
    accuracy, loss : of the new global model on this client's test examples.
    test_examples : how many these are.
    """

    round: int | None
    fedn_round: str
    client: str
    outcome: Outcome = Outcome.SENT
    reason: str | None = None
    warmup: bool | None = None
    layers: list = dataclasses.field(default_factory=list)
    limited: str | None = None
    trained_params: int | None = None
    total_params: int | None = None
    num_examples: int | None = None
    training_macs: int | None = None
    upload_bytes: int | None = None
    download_bytes: int | None = None
    train_seconds: float | None = None
    round_seconds: float | None = None
    phases: dict = dataclasses.field(default_factory=dict)
    cpu_seconds: float | None = None
    cpu_percent: float | None = None
    rss_peak_mb: float | None = None
    memory_peak_mb: float | None = None
    predicted_memory_mb: float | None = None
    machine_cpu_percent: float | None = None
    ram_used_mb: float | None = None
    ram_percent: float | None = None
    gpu_percent: float | None = None
    temperature_c: float | None = None
    power_mw: float | None = None
    train_loss: float | None = None
    accuracy: float | None = None
    loss: float | None = None
    test_examples: int | None = None

    def outcome_text(self) -> str:
        """Return the outcome with its reason."""
        return describe_outcome(self.outcome, self.reason)


def over_examples(rows: Iterable[Row], key: str) -> float | None:
    """Return the mean of a column over all clients' test examples, or None if nobody has tested."""
    tested = [(getattr(row, key), row.test_examples) for row in rows]
    tested = [(value, examples) for value, examples in tested if value is not None and examples]
    examples = sum(count for _, count in tested)
    return sum(value * count for value, count in tested) / examples if examples else None


class RunFolder:
    """Writes a run's two files into the folder `path`, which is made if it is not there.

    Parameters
    ----------
    known : keys of session.json that are otherwise than ``describe`` has them.

    Attributes
    ----------
    rows : what was written so far.
    """

    def __init__(self, path: Path, case: Case, **known):
        self.path, self.case = path, case
        self.rows: list[Row] = []
        path.mkdir(parents=True, exist_ok=True)
        self._session = describe(case) | known | {"notes": []}
        self.finish({})

    def know_layers(self, table: list[Layer]) -> None:
        """Write the model's layers with their parameters, from input to output: a report counts coverage by them."""
        self._session["layers"] = {layer.name: layer.parameters for layer in table}
        self.finish({})

    def note(self, round_: int, text: str) -> None:
        """Add a sentence about a whole round to session.json, written with what is known at the end."""
        self._session["notes"].append({"round": round_, "text": text})

    def write_rows(self, rows: list[Row]) -> None:
        """Append rows to rounds.jsonl."""
        self.rows += rows
        lines = (json.dumps(dataclasses.asdict(row)) + "\n" for row in rows)
        append_text(self.path / "rounds.jsonl", "".join(lines))

    def finish(self, final: dict) -> None:
        """Write session.json, with the final metrics if there are any yet."""
        write_text(self.path / "session.json", json.dumps({**self._session, "final": final}, indent=1) + "\n")


def new_folder(parent: Path, name: str) -> Path:
    """Make a folder below `parent` that is called after `name` and the time, and return its path."""
    name = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    parent.mkdir(parents=True, exist_ok=True)
    for path in map(parent.joinpath, itertools.chain((name,), (f"{name}-{number}" for number in itertools.count(2)))):
        with contextlib.suppress(FileExistsError):  # another run, begun in the same second
            path.mkdir()
            return path


def describe(case: Case) -> dict:
    """Return what a run of `case` that begins now is: settings, versions, machine."""
    return {
        "name": case.name,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seed": case.seed,
        "settings": dataclasses.asdict(case),
        **({"custom_modules": custom.digests()} if (custom := modules.active()) else {}),
        "versions": {"fedn-partial": fedn_partial.__version__, "python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("fedn", "keras", "numpy")},
        "machine": machine(),
    }


def machine() -> str:
    """Return what this machine is, or what its control group leaves of it: system, processors, memory."""
    processors = cgroup.processors()
    memory = cgroup.machine_memory()
    size = f"{memory / 1e9:.1f} GB of memory" if memory else "memory n/a"
    return f"{platform.system()} {platform.machine()}, {processors:g} processor{'s' * (processors != 1)}, {size}"
