"""Read the definitions of experiments in configs/experiments/: cells with one run per seed.

The keys are documented in fig1.yaml. A run is identified by a digest of its settings as written in the files, so that
experiments share identical runs, and a changed default of the package does not change the digest.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from fedn_partial import configs
from fedn_partial.client.experiments.paper import figures
from fedn_partial.errors import FednPartialError
from fedn_partial.settings.case import Case, parse_case
from fedn_partial.settings.schema import SettingsError, bounded, parse
from fedn_partial.settings.yaml_file import read_yaml

FOLDER = Path(configs.__file__).with_name("experiments")
KINDS = ("curves", "points", "counts", "bytes", "budgets")


@dataclass(frozen=True)
class PlannedRun:
    """One simulation.

    Attributes
    ----------
    settings : keys of the case without its name, including the seed.
    """

    settings: dict

    @functools.cached_property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def seed(self) -> int:
        return self.settings["seed"]

    def case(self, where: str | None = None) -> Case:
        """Return the case of the run, named by the digest (raises SettingsError, whose message contains `where`)."""
        return parse_case({"name": self.digest, **self.settings}, where or f"run {self.digest}")


@dataclass(frozen=True)
class Setup:
    """One cell of an experiment with its runs, one per seed.

    Attributes
    ----------
    paper : accuracy printed in the paper in percent, or None.
    row, column : labels in a grid, else None.
    """

    label: str
    runs: tuple[PlannedRun, ...]
    paper: float | None = None
    row: str | None = None
    column: str | None = None


@dataclass(frozen=True)
class Experiment:
    """A figure or table of the paper, or a comparison, at full size or `small`.

    Attributes
    ----------
    title : title of the table and the chart.
    kind : kind of the table and the chart, one of `KINDS`.
    ceiling : label of the cell of full training used as the baseline, or None.
    axis : label of the x axis of the chart, for a grid.
    """

    name: str
    small: bool
    title: str
    kind: str
    cells: tuple[Setup, ...]
    ceiling: str | None = None
    axis: str | None = None

    @property
    def slug(self) -> str:
        return f"{self.name}-small" if self.small else self.name

    @property
    def ceiling_cell(self) -> Setup | None:
        return next((cell for cell in self.cells if cell.label == self.ceiling), None)

    @property
    def runs(self) -> list[PlannedRun]:
        """The distinct runs ordered by seed, so that every cell has a result early."""
        by_seed = zip(*(cell.runs for cell in self.cells), strict=True)
        return list({run.digest: run for runs in by_seed for run in runs}.values())


@dataclass(frozen=True)
class _Base:
    case: dict
    small: dict = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    label: str
    set: dict = field(default_factory=dict)
    small: dict = field(default_factory=dict)
    paper: str | None = None


@dataclass(frozen=True)
class _File:
    title: str
    base: str
    kind: str = bounded(one_of=KINDS)
    seeds: list = bounded()
    ceiling: str | None = None
    axis: str | None = None
    set: dict = field(default_factory=dict)
    small: dict = field(default_factory=dict)
    cells: tuple[_Part, ...] = ()
    rows: tuple[_Part, ...] = ()
    columns: tuple[_Part, ...] = ()


def names() -> list[str]:
    """Return the names of all experiments, figures and tables of the paper first."""
    stems = sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith("base-"))
    return sorted(stems, key=lambda name: not name.startswith(("fig", "table")))


@functools.cache
def load(name: str, small: bool) -> Experiment:
    """Read an experiment.

    Raises
    ------
    FednPartialError : the experiment does not exist.
    SettingsError : the file of the experiment is invalid.
    """
    if name not in names():
        raise FednPartialError(f"Unknown experiment {name!r}: use {', '.join(names())} or all")
    return read(FOLDER / f"{name}.yaml", small)


def read(path: Path, small: bool) -> Experiment:
    """Read the file of an experiment and its base in the same folder (raises SettingsError)."""
    file = parse(_File, read_yaml(path), str(path))
    base_path = path.with_name(file.base)
    base = parse(_Base, read_yaml(base_path), str(base_path))
    if not file.seeds or not all(type(seed) is int for seed in file.seeds) or len(set(file.seeds)) < len(file.seeds):
        raise SettingsError(f"{path}: seeds must be distinct integers, found {file.seeds!r}")
    if bool(file.rows) != bool(file.columns):
        raise SettingsError(f"{path}: rows and columns must be given together")
    common = [base.small if small else {}, file.set, file.small if small else {}]
    cells = [_cell(path, (part,), base.case, common, small, file.seeds, part.label) for part in file.cells] + [
        _cell(path, (row, column), base.case, common, small, file.seeds, f"{row.label}, {column.label}")
        for row in file.rows
        for column in file.columns
    ]
    labels = [cell.label for cell in cells]
    if not cells or len(set(labels)) < len(labels):
        raise SettingsError(f"{path}: cells must have unique labels, found {labels}")
    if file.ceiling is not None and file.ceiling not in labels:
        raise SettingsError(
            f"{path}: ceiling {file.ceiling!r} is not the label of a cell; the labels are {', '.join(labels)}"
        )
    return Experiment(path.stem, small, file.title, file.kind, tuple(cells), file.ceiling, file.axis)


def _cell(path: Path, parts: tuple[_Part, ...], case: dict, common: list[dict], small: bool, seeds, label) -> Setup:
    settings = copy.deepcopy(case)
    changes = [*common, *(part.set for part in parts), *(part.small for part in parts if small)]
    for change in changes:
        for key, value in change.items():
            _set_nested(settings, key.split("."), copy.deepcopy(value), f"{path}: {label}: {key}")
    runs = tuple(PlannedRun({**settings, "seed": seed}) for seed in seeds)
    runs[0].case(f"{path}: {label}")
    row, column = (part.label for part in parts) if len(parts) == 2 else (None, None)
    return Setup(label, runs, paper_accuracy(parts[-1].paper, f"{path}: {label}"), row, column)


def _set_nested(settings: dict, keys: list[str], value, where: str) -> None:
    for key in keys[:-1]:
        settings = settings.setdefault(key, {})
        if not isinstance(settings, dict):
            raise SettingsError(f"{where}: {key!r} is a value, not a section")
    settings[keys[-1]] = value


def paper_accuracy(key_path: str | None, where: str) -> float | None:
    """Return the accuracy at a key of configs/paper.yaml, such as ``fig1.7``; None if `key_path` is None.

    Raises
    ------
    SettingsError : the key does not exist.
    """
    if key_path is None:
        return None
    figure, _, key = key_path.partition(".")
    accuracies = {str(name): value for name, value in figures()["accuracy"].get(figure, {}).items()}
    if key not in accuracies:
        raise SettingsError(f"{where}: paper {key_path!r} is not in configs/paper.yaml under accuracy")
    return accuracies[key]
