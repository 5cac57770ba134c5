"""Compare rounds on a device with the paper's method, and with computed lower bounds.

The same model, images, selections, processors and memory limit (2 GB, by control group) for both; several
repetitions, each with another draw of layers, one way right after the other. A round is one training request and
one validation request, as FEDn's client runs them: from the start of `python train.py` to its complete update, and
the same for `validate.py`. Needs root for the control group.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from cgroups import MemoryGroup
from device import Device
from size import options

from fedn_partial import models
from fedn_partial.data.shard import Shard
from fedn_partial.device import costs
from fedn_partial.settings.case import Training
from fedn_partial.submodel import selection
from fedn_partial.submodel.layers import pick, read_layers
from fedn_partial.training.step import StepSettings, trace

PAPER_WAY = Path(__file__).with_name("paper_method")
LIMIT = 2_000_000_000
BATCH = 32
ALWAYS = {"vgg16": ("dense",), "lstm_har": (), "text_cnn": ()}


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured: examples to train and to test, draws of layers, and by model the numbers of layers."""

    train: int
    test: int
    repetitions: int
    numbers: dict[str, tuple[int, ...]]


FULL = Size(640, 128, 3, {"vgg16": (4, 7, 10, 14), "lstm_har": (2, 4, 6), "text_cnn": (1, 2, 4)})
SMALLEST = Size(32, 32, 1, {"lstm_har": (6,)})


@dataclasses.dataclass(frozen=True)
class Cost:
    """One round: seconds, peak of anonymous memory in bytes (FEDn's client not counted), bytes of the update."""

    seconds: float
    memory: float
    upload: float


def make_shard(name: str, model, size: Size) -> Shard:
    random = np.random.default_rng(1)
    shape = model.input.shape[1:]

    def part(count):
        if name == "vgg16":
            x = random.integers(0, 256, (count, *shape), dtype=np.uint8)
        elif name == "text_cnn":
            x = random.integers(0, 20000, (count, *shape)).astype(np.int32)
        else:
            x = random.random((count, *shape), dtype=np.float32)
        return x, random.integers(0, 2, count).astype(np.int32)

    return Shard(*part(size.train), *part(size.test), ("a", "b"))


def ours(device: Device, group: MemoryGroup, names: list[str]) -> Cost:
    device.choose_layers(names)
    group.peak = 0
    started = time.monotonic()
    codes = [device.run("train", "model.npz", "update.npz"), device.run("validate", "model.npz", "metrics.json")]
    seconds = time.monotonic() - started
    assert codes == [0, 0] and device.metadata()["layers"] == names, device.metadata()
    return Cost(seconds, group.peak, sum((device.folder / name).stat().st_size for name in ("update.npz",)))


def paper_method(device: Device, group: MemoryGroup, names: list[str]) -> Cost:
    job = {
        "model": device.model,
        "layers": names,
        "data": str(device.folder / "data"),
        "batch_size": BATCH,
        "loss": "sparse_categorical_crossentropy",
    }
    environment = {**os.environ, "JOB": json.dumps(job)}
    group.peak = 0
    started = time.monotonic()
    for script, output in (("train.py", "paper.npz"), ("validate.py", "paper.json")):
        command = [sys.executable, PAPER_WAY / script, device.folder / "model.npz", device.folder / output]
        subprocess.run(command, env=environment, check=True, preexec_fn=lambda: group.add(os.getpid()))
    seconds = time.monotonic() - started
    return Cost(seconds, group.peak, (device.folder / "paper.npz").stat().st_size)


def measure_rounds(name: str, size: Size) -> dict[int, tuple[list[Cost], list[Cost]]]:
    """Return by number of layers the costs of our rounds and of those of the paper's method."""
    section = {"name": name}
    model = models.build(section)
    layers = read_layers(model)
    found = {}
    with tempfile.TemporaryDirectory() as folder, MemoryGroup(LIMIT) as group, MemoryGroup(LIMIT) as other:
        device = Device(Path(folder), model=section, shard=make_shard(name, model, size))
        device.write_model(training={"epochs": 1, "batch_size": BATCH})
        device.start_client()
        group.add(device.process.pid)
        device.run("startup")
        ours(device, group, [layers[-1].name])  # as in every round but a client's first, TensorFlow is imported
        for number in size.numbers[name]:
            pairs = []
            for repetition in range(1, size.repetitions + 1):
                names = draw(layers, name, number, repetition)
                pairs.append((ours(device, group, names), paper_method(device, other, names)))
            found[number] = tuple(zip(*pairs, strict=True))
        device.process.kill()
    return found


def draw(layers, name: str, number: int, repetition: int) -> list[str]:
    context = selection.Context(seed=1, round=repetition, client="benchmark")
    return [layer.name for layer in selection.select_layers(selection.Random(number, ALWAYS[name]), layers, context)]


def measure_steps(name: str, size: Size) -> dict[int, tuple[float, float]]:
    """Return by number of layers the time of a training step and its operations, both as share of all layers'."""
    model = models.build({"name": name})
    layers = read_layers(model)
    shard = make_shard(name, model, size)
    x, y = shard.x_train[:BATCH], shard.y_train[:BATCH]

    def seconds(selected) -> float:
        step = trace(model, layers, selected, x, StepSettings(Training()))
        step.run(x, y)
        times = []
        for _ in range(9):
            started = time.perf_counter()
            step.run(x, y)
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    found = {}
    for number in size.numbers[name]:
        shares = []
        for repetition in range(1, size.repetitions + 1):
            selected = pick(layers, draw(layers, name, number, repetition))
            operations = costs.training_macs(layers, selected) / costs.training_macs(layers, layers)
            shares.append((seconds(selected) / seconds(layers), operations))
        found[number] = tuple(statistics.median(values) for values in zip(*shares, strict=True))
    return found


def report(name: str, size: Size, import_bytes: int) -> None:
    """Measure one model and print its table."""
    rounds, steps = measure_rounds(name, size), measure_steps(name, size)
    layers = read_layers(models.build({"name": name}))
    everything = statistics.median(cost.seconds for cost in rounds[len(layers)][1])
    print(f"\n### {name}: {len(layers)} layers, {size.train} examples, batches of {BATCH}\n")
    heads = ("N", "seconds", "paper's method", "ratio", "ratio to paper's method, all layers")
    heads += ("training step", "operations (limit)", "MB", "paper's method", "ratio", "import + state (limit)")
    heads += ("update MB", "ratio to paper's method", "ratio to limit")
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * 14)
    for number, (mine, paper) in rounds.items():
        drawn = [pick(layers, draw(layers, name, number, r)) for r in range(1, size.repetitions + 1)]
        limit_bytes = statistics.mean(costs.upload_bytes(selected) for selected in drawn)
        limit_memory = statistics.mean(
            costs.state_bytes(layers, selected, Training()) + costs.ideal_activation_bytes(layers, selected, BATCH)
            for selected in drawn
        )
        seconds, theirs = ([cost.seconds for cost in costs_] for costs_ in (mine, paper))
        memory, their_memory = (statistics.median(cost.memory for cost in costs_) for costs_ in (mine, paper))
        upload, their_upload = (statistics.mean(cost.upload for cost in costs_) for costs_ in (mine, paper))
        middle, their_middle = statistics.median(seconds), statistics.median(theirs)
        step, operations = steps[number]
        cells = [
            f"{middle:.1f} ({min(seconds):.1f}-{max(seconds):.1f})",
            f"{their_middle:.1f} ({min(theirs):.1f}-{max(theirs):.1f})",
            f"{middle / their_middle:.2f}",
            f"{middle / everything:.2f}",
            f"{step:.2f}",
            f"{operations:.2f}",
            f"{memory / 1e6:.0f}",
            f"{their_memory / 1e6:.0f}",
            f"{memory / their_memory:.2f}",
            f"{(limit_memory + import_bytes) / 1e6:.0f}",
            f"{upload / 1e6:.2f}",
            f"{upload / their_upload:.3f}",
            f"{upload / limit_bytes:.3f}",
        ]
        print(f"| {number} | " + " | ".join(cells) + " |", flush=True)


def measure_import() -> int:
    """Return the bytes of anonymous memory that an import of TensorFlow alone holds."""
    code = (
        "import os, tensorflow\nfrom fedn_partial.device.monitor import anonymous_memory as a\nprint(a([os.getpid()]))"
    )
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("models", nargs="*", help=f"all of these if none is named: {', '.join(FULL.numbers)}")
    arguments = parser.parse_args()
    size = SMALLEST if arguments.smallest else FULL
    if unknown := set(arguments.models) - set(size.numbers):
        parser.error(f"{', '.join(sorted(unknown))}: not among {', '.join(size.numbers)}")
    import_bytes = measure_import()
    print(f"{os.cpu_count()} processors; an import of TensorFlow alone holds {import_bytes / 1e6:.0f} MB here")
    for name in arguments.models or size.numbers:
        report(name, size, import_bytes)


if __name__ == "__main__":
    main()
