"""Write the folder of a run.

``runs/NAME/session.json`` holds the settings, versions, seed, SHA-256 of the custom modules, layers of the model, notes
of the server functions on whole rounds, and final metrics. ``runs/NAME/rounds.jsonl`` holds one JSON object per client
and round with the columns of ``Row``.
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
    """One client in one round: the columns of rounds.jsonl. Unknown values are null; MB are 10**6 bytes.

    Attributes
    ----------
    round : round of the session, counted from 1 by the server functions.
    fedn_round : FEDn's round id.
    client : name of the client.
    outcome, reason : outcome of the update, see ``fedn_partial.client.records.outcome``; the reason is null if the
        outcome has none.
    warmup : whether the round was a full round.
    layers : names of the layers that were trained and sent.
    limited : reason why the device trained fewer layers than requested, else null.
    trained_params, total_params : number of weights in these layers, and in the model.
    num_examples : number of training examples.
    training_macs : multiply-accumulates of the training, see ``fedn_partial.device.costs.training_macs``.
    upload_bytes : bytes of the update sent through gRPC: model, message and metadata. Status messages, in which FEDn
        repeats the metadata, are excluded. FEDn's own client does not report this value; for it, the size of the
        update file and the metadata on arrival is used, which is 10 to 20 kB larger because that client returns the
        settings of the session.
    download_bytes : bytes of the global models downloaded, to train and to validate.
    train_seconds : duration of the training loop.
    round_seconds : duration from the request to the upload of the update, including the download of the model.
    phases : seconds of load, import, trace, train, encode.
    cpu_seconds, cpu_percent : CPU use of the processes of the training request; 100 % is one processor.
    rss_peak_mb : peak resident memory of these processes.
    memory_peak_mb : peak anonymous memory of the FEDn client and these processes at the end of a phase, shared pages
        counted once: the memory that the device needs.
    predicted_memory_mb : prediction of memory_peak_mb before the training.
    machine_cpu_percent : mean load of the machine's processors, or of the control group's if it has a limit.
    ram_used_mb, ram_percent : peak memory in use on the machine, or in the control group if it has a limit.
    gpu_percent : mean load of the GPU (Jetson).
    temperature_c : highest temperature of the thermal zones, in degrees Celsius.
    power_mw : mean power at the input rail of a Jetson module in mW, all consumers included.
    train_loss : mean loss of the last local epoch.
    accuracy, loss : metrics of the new global model on the client's test examples.
    test_examples : number of test examples.
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
        """Return the outcome and its reason as text."""
        return describe_outcome(self.outcome, self.reason)


def weighted_mean(rows: Iterable[Row], key: str) -> float | None:
    """Return the mean of a column weighted by the clients' test examples, or None if no client has tested."""
    tested = [(getattr(row, key), row.test_examples) for row in rows]
    tested = [(value, examples) for value, examples in tested if value is not None and examples]
    examples = sum(count for _, count in tested)
    return sum(value * count for value, count in tested) / examples if examples else None


class RunFolder:
    """Writer of session.json and rounds.jsonl. Creates the folder `path` if it does not exist.

    Parameters
    ----------
    overrides : keys of session.json that replace those of ``describe``.

    Attributes
    ----------
    rows : rows written so far.
    """

    def __init__(self, path: Path, case: Case, **overrides):
        self.path, self.case = path, case
        self.rows: list[Row] = []
        path.mkdir(parents=True, exist_ok=True)
        self._session = describe(case) | overrides | {"notes": []}
        self.finish({})

    def set_layers(self, layers: list[Layer]) -> None:
        """Write the layers of the model, from input to output, with their numbers of parameters to session.json."""
        self._session["layers"] = {layer.name: layer.parameters for layer in layers}
        self.finish({})

    def add_note(self, round_: int, text: str) -> None:
        """Add a note on a whole round; session.json contains it from the next ``finish`` on."""
        self._session["notes"].append({"round": round_, "text": text})

    def write_rows(self, rows: list[Row]) -> None:
        """Append rows to rounds.jsonl."""
        self.rows += rows
        lines = (json.dumps(dataclasses.asdict(row)) + "\n" for row in rows)
        append_text(self.path / "rounds.jsonl", "".join(lines))

    def finish(self, final: dict) -> None:
        """Write session.json with the final metrics, an empty dict before the end of the run."""
        write_text(self.path / "session.json", json.dumps({**self._session, "final": final}, indent=1) + "\n")


def new_folder(parent: Path, name: str) -> Path:
    """Create a folder named after `name` and the current time below `parent`, and return its path."""
    name = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    parent.mkdir(parents=True, exist_ok=True)
    for path in map(parent.joinpath, itertools.chain((name,), (f"{name}-{number}" for number in itertools.count(2)))):
        with contextlib.suppress(FileExistsError):  # another run started in the same second
            path.mkdir()
            return path


def describe(case: Case) -> dict:
    """Return the content of session.json at the start of a run of `case`: settings, versions, machine."""
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
    """Return the system, processors and memory of this machine, or of its control group, as text."""
    processors = cgroup.processors()
    memory = cgroup.machine_memory()
    size = f"{memory / 1e9:.1f} GB of memory" if memory else "memory n/a"
    return f"{platform.system()} {platform.machine()}, {processors:g} processor{'s' * (processors != 1)}, {size}"
