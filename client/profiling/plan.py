"""Predict what a device with a given memory can train, before it joins."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from dataclasses import dataclass

from fedn_partial.device import costs
from fedn_partial.device.device_limits import HOT_FILES
from fedn_partial.device.planner import MB, Limits, Planner
from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.entry import SMALL_MEMORY
from fedn_partial.settings.case import Case
from fedn_partial.submodel import selection
from fedn_partial.training import terms

DRAWS = 200
UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "KI": 2**10, "MI": 2**20, "GI": 2**30}

# A device's processes before training: FEDn's client in one, TensorFlow in another.
_IMPORT = """
import os
from fedn_partial.device.monitor import anonymous_memory
{imports}
print(anonymous_memory([os.getpid()]))
"""
CLIENT = "import fedn_partial.client.commands.cli\nfrom fedn_partial.client.device import device_client, fedn_client"
TENSORFLOW = "from fedn_partial.runtime import forkserver; forkserver.import_tensorflow()"


@dataclass(frozen=True)
class PlanRow:
    """Prediction for one number of layers, over random selections of them.

    Attributes
    ----------
    memory_mb : lowest, mean and highest memory in MB.
    upload_mb : mean upload in MB.
    operations : mean share of the operations of full training.
    fits : share of the selections that fit.
    """

    layers: int
    memory_mb: tuple[float, float, float]
    upload_mb: float
    operations: float
    fits: float


@dataclass(frozen=True)
class Plan:
    """Prediction for a case.

    Attributes
    ----------
    base_mb : memory of FEDn's client and TensorFlow in MB.
    rows : one for each number of layers.
    budget_layers : mean number of layers that the selector `budget` selects.
    never : layers that do not fit even alone.
    """

    base_mb: float
    rows: list[PlanRow]
    budget_layers: float
    never: list[str]


def parse_bytes(text: str) -> float:
    """Return the bytes of a size such as "512MB", "1.5GB" or "400MiB" (raises FednPartialError)."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMG]I?)B?|B)\s*", text.upper())
    if not match or not float(match[1]):
        raise FednPartialError(
            f"Invalid memory size {text!r}: use a number with a unit, such as 512MB, 1.5GB or 400MiB"
        )
    return float(match[1]) * UNITS[match[2] or ""]


def make_plan(case: Case, memory_bytes: float) -> Plan:
    """Predict the cost of each number of layers of a case, and what fits into `memory_bytes`.

    The memory of the imports is measured on this machine.
    """
    from fedn_partial.seed_model.case_checks import check_case

    layers = check_case(case)
    base = _import_bytes(CLIENT) + _import_bytes(TENSORFLOW)
    planner = Planner(
        layers=layers,
        training=case.training,
        codec=case.codec,
        base_mb=base / MB,
        forked=memory_bytes >= SMALL_MEMORY,
        terms=terms.from_dict(case.objective),
    )
    selector = selection.from_dict(case.selection)
    limits = Limits(memory_mb=max(memory_bytes - HOT_FILES, 1) / MB)
    if isinstance(selector, selection.Budget):
        limits = limits.and_(Limits(selector.memory_mb, selector.upload_mb))
    always = getattr(selector, "always_train", ())
    numbers = range(max(1, len(set(always))), len(layers) + 1)
    never = [layer.name for layer in layers if not planner.fits([layer], limits)]
    return Plan(
        base_mb=base / MB,
        rows=[_predict(selection.Random(number, always), planner, limits) for number in numbers],
        budget_layers=_budget_layers(always, planner, limits) if len(never) < len(layers) else 0.0,
        never=never,
    )


def _predict(selector: selection.Random, planner: Planner, limits: Limits) -> PlanRow:
    layers = planner.layers
    contexts = _contexts(1 if selector.layers == len(layers) else DRAWS)
    selections = [selection.select_layers(selector, layers, context) for context in contexts]
    estimates = [planner.estimate(selected) for selected in selections]
    memory = [estimate.memory_mb for estimate in estimates]
    full = costs.training_macs(layers, layers)
    return PlanRow(
        layers=selector.layers,
        memory_mb=(min(memory), sum(memory) / len(memory), max(memory)),
        upload_mb=sum(estimate.upload_mb for estimate in estimates) / len(estimates),
        operations=sum(costs.training_macs(layers, selected) for selected in selections) / len(selections) / full,
        fits=sum(estimate.within(limits) for estimate in estimates) / len(estimates),
    )


def _budget_layers(always: tuple[str, ...], planner: Planner, limits: Limits) -> float:
    """Return the mean number of layers that the selector `budget` selects within `limits`."""
    budget = selection.Budget(always_train=always)
    number = 0
    for context in _contexts(DRAWS):
        context = dataclasses.replace(context, fits=lambda layers: planner.fits(layers, limits))
        number += len(selection.select_layers(budget, planner.layers, context))
    return number / DRAWS


def _contexts(number: int) -> list[selection.Context]:
    return [selection.Context(seed=1, round=round_, client="plan") for round_ in range(1, number + 1)]


def run_imports(imports: str, timeout: float | None = None) -> subprocess.CompletedProcess:
    """Run `imports` in a process of its own, which prints the anonymous memory that they take, in bytes.

    Raises
    ------
    subprocess.TimeoutExpired : it took longer than `timeout` seconds.
    """
    code = _IMPORT.format(imports=imports)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout)


def _import_bytes(imports: str) -> int:
    done = run_imports(imports)
    answer = done.stdout.strip().splitlines()[-1:] or [""]
    if done.returncode or not answer[0].isdigit():
        raise FednPartialError(f"cannot measure the memory of the imports: {done.stderr[-500:] or answer[0]}")
    return int(answer[0])
