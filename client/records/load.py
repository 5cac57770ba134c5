"""Read the folders of runs and profiles.

Their content comes from devices and may be old or incomplete. Missing columns are None, unknown columns are ignored,
and a value of the wrong type raises an error that names its file and line.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
import typing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from fedn_partial.client.follow.poller import LARGEST
from fedn_partial.client.records.outcome import Outcome, read_outcome
from fedn_partial.client.records.run_folder import Row
from fedn_partial.errors import FednPartialError

# JSON does not distinguish integers from floats; NaN is outside of any limits.
LIMITS = msgspec.Meta(gt=int(-LARGEST), lt=int(LARGEST))
NUMBER = typing.Annotated[int, LIMITS] | typing.Annotated[float, LIMITS]
CHECKED = {int: NUMBER, float: NUMBER, list: list[str], dict: dict[str, NUMBER | None]}


@dataclass(frozen=True)
class Run:
    """One run's folder.

    Attributes
    ----------
    label : name of the run, unique within a report.
    session : content of session.json.
    rows : rows of rounds.jsonl.
    cut_off : whether the last line of rounds.jsonl is incomplete, as after a kill during the write.
    """

    path: Path
    label: str
    session: dict
    rows: tuple[Row, ...]
    cut_off: bool = False

    def setting(self, *keys: str):
        """Return a setting of the case, such as ``setting("model", "name")``, or None if the file has none."""
        return _dig(self.session.get("settings"), keys)

    @property
    def data(self) -> dict | None:
        """The settings of the clients' data: those that were used if session.json has them, else those of its case."""
        data = self.session.get("data") or self.setting("data")
        return data if isinstance(data, dict) else None

    @property
    def notes(self) -> list[tuple[int, str]]:
        """Notes of the server functions on whole rounds: number of the round, and text."""
        raw = self.session.get("notes")
        notes = [note for note in raw if isinstance(note, dict)] if isinstance(raw, list) else []
        pairs = [(note.get("round"), note.get("text")) for note in notes]
        return [(number, text) for number, text in pairs if isinstance(number, int) and isinstance(text, str)]

    @property
    def validations(self) -> dict[str, float]:
        """Bytes that clients without an update in a round downloaded to validate its model, by FEDn's round number."""
        raw = _dig(self.session.get("final"), ("validations",))
        return {id: count for id, count in raw.items() if _is_count(count)} if isinstance(raw, dict) else {}


def _is_count(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < LARGEST


@dataclass(frozen=True)
class Cell:
    """One flavour with one number of layers, see ``fedn-partial profile``. Unknown values are None.

    Attributes
    ----------
    layers, total_layers : number of layers requested, and of the model.
    rounds : number of rounds trained; values are means over these rounds.
    seconds : duration of the training loop.
    round_seconds : duration from the request to the upload of the update.
    cpu_percent : load of the flavour's processors during the training request; 100 is full load on all of them.
    ram_mb : peak memory in use in the container in 10**6 bytes, including the active file cache as Docker counts it.
    ram_percent : the same as a percentage of the flavour's memory.
    killed : progress of the training when the kernel killed it for lack of memory, or None.
    limited : reason why fewer layers than requested were trained, or None.
    run : the run of this cell.
    """

    flavour: str
    layers: int
    cpus: float | None = None
    memory_mib: float | None = None
    total_layers: int | None = None
    rounds: int | None = None
    seconds: float | None = None
    round_seconds: float | None = None
    cpu_percent: float | None = None
    ram_mb: float | None = None
    ram_percent: float | None = None
    killed: str | None = None
    limited: str | None = None
    run: Run | None = None


@dataclass(frozen=True)
class Profile:
    """One profile's folder.

    Attributes
    ----------
    content : content of profile.json.
    refused : {flavour: reason why it was not profiled}.
    """

    path: Path
    label: str
    content: dict
    cells: tuple[Cell, ...]
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> list[tuple[str, int]]:
        """Combinations of flavour and number of layers that were requested but not profiled."""
        tried = {(cell.flavour, cell.layers) for cell in self.cells}
        requested = self.content.get("asked")
        pairs = [tuple(pair) for pair in requested if isinstance(pair, list)] if isinstance(requested, list) else []
        return [pair for pair in pairs if pair not in tried]

    def setting(self, *keys: str):
        """Return a setting of the case, such as ``setting("model", "name")``, or None if the file has none."""
        return _dig(self.content.get("settings"), keys)


def load(folders: list[Path]) -> tuple[list[Run], list[Profile]]:
    """Read the folders of a report; runs or profiles with equal names are labelled by their folders.

    Raises
    ------
    FednPartialError : a folder contains neither a run nor a profile, is given twice, or a file in it is damaged.
    """
    seen: dict[Path, Path] = {}
    for folder in folders:
        if folder.resolve() in seen:
            raise FednPartialError(f"{folder} is given twice; give each run once")
        seen[folder.resolve()] = folder
    loaded = [_load_profile(folder) if (folder / "profile.json").exists() else load_run(folder) for folder in folders]
    labels = [item.label for item in loaded]
    taken: set[str] = set()
    renamed = []
    for item in loaded:
        label = item.label if labels.count(item.label) == 1 else item.path.resolve().name
        while label in taken:
            label += "'"
        taken.add(label)
        renamed.append(dataclasses.replace(item, label=label))
    return [x for x in renamed if isinstance(x, Run)], [x for x in renamed if isinstance(x, Profile)]


def load_run(folder: Path) -> Run:
    """Read a run's folder (raises FednPartialError)."""
    path = folder / "session.json"
    if not path.exists():
        raise FednPartialError(
            f"{folder} is not the folder of a run or profile: it has neither session.json nor profile.json; "
            "give a folder written by 'fedn-partial run', 'session start' or 'profile', such as runs/NAME"
        )
    session = _read_object(path)
    name = session.get("name")
    if not isinstance(name, str) or not isinstance(session.get("settings"), dict):
        raise FednPartialError(f"{path}: not a session: 'name' or 'settings' is missing or of the wrong type")
    for key in ("final", "layers", "versions"):
        if not isinstance(session.get(key) or {}, dict):
            raise FednPartialError(f"{path}: {key!r} must have keys and values, found {session[key]!r}")
    rows, cut_off = _read_rows(folder / "rounds.jsonl")
    return Run(path=folder, label=name, session=session, rows=rows, cut_off=cut_off)


def _load_profile(folder: Path) -> Profile:
    path = folder / "profile.json"
    content = _read_object(path)
    raw_cells, refused = content.get("cells"), content.get("refused") or {}
    named = content.get("kind") == "profile" and isinstance(content.get("name"), str)
    if not named or not isinstance(raw_cells, list):
        raise FednPartialError(f"{path}: not a profile: 'kind', 'name' or 'cells' is missing or of the wrong type")
    for key in ("versions", "refused"):
        if not isinstance(content.get(key) or {}, dict):
            raise FednPartialError(f"{path}: {key!r} must have keys and values, found {content[key]!r}")
    cells: list[Cell] = []
    for number, raw in enumerate(raw_cells, start=1):
        cell = _load_cell(folder, raw, f"{path}: cell {number}")
        if any((cell.flavour, cell.layers) == (other.flavour, other.layers) for other in cells):
            raise FednPartialError(f"{path}: cell {number}: duplicate of {cell.flavour} with {cell.layers} layers")
        cells.append(cell)
    refused = {str(flavour): str(reason) for flavour, reason in refused.items()}
    return Profile(path=folder, label=content["name"], content=content, cells=tuple(cells), refused=refused)


def _load_cell(folder: Path, raw, where: str) -> Cell:
    """Return a cell of the profile in `folder`, with its run if the folder of the run exists."""
    if not isinstance(raw, dict):
        raise FednPartialError(f"{where}: expected keys and values, found {raw!r}")
    name = raw.get("run")
    if name is not None and (not isinstance(name, str) or Path(name).name != name):
        raise FednPartialError(f"{where}: 'run' must be the name of a folder beside profile.json, found {name!r}")
    cell = _record(Cell, {**raw, "run": None}, where, required=("flavour", "layers"))
    if not name or not (folder / name / "session.json").exists():
        return cell
    label = f"{cell.flavour}, {cell.layers} layers"
    return dataclasses.replace(cell, run=dataclasses.replace(load_run(folder / name), label=label))


def _read_rows(path: Path) -> tuple[tuple[Row, ...], bool]:
    """Return the rows, and whether the last line was cut off and ignored."""
    if not path.exists():  # no round has ended yet
        return (), False
    lines = _read(path).split("\n")
    unfinished = lines.pop()  # after the last end of line: empty in a complete file
    rows = [_row(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    return tuple(rows), bool(unfinished.strip())


def _row(line: str, where: str) -> Row:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FednPartialError(f"{where}: not JSON ({error}); correct the line or remove it") from None
    if not isinstance(raw, dict):
        raise FednPartialError(f"{where}: expected an object with columns, found {line[:60]!r}")
    try:
        raw["outcome"], raw["reason"] = read_outcome(raw.get("outcome", Outcome.SENT.value), raw.get("reason"))
    except (AttributeError, TypeError, ValueError):
        allowed = ", ".join(outcome.value for outcome in Outcome)
        raise FednPartialError(
            f"{where}: column 'outcome' must be one of {allowed}; found {str(raw['outcome'])[:60]!r}"
        ) from None
    return _record(Row, {"round": None, **raw}, where, required=("fedn_round", "client"))


def _record(cls, raw: dict, where: str, required: tuple[str, ...]):
    """Build the dataclass `cls` from `raw`; check types and ignore unknown keys."""
    for key in required:
        if raw.get(key) is None:
            raise FednPartialError(f"{where}: column {key!r} is missing")
    columns = _columns(cls)
    values = {key: value for key, value in raw.items() if key in columns}
    for key, value in values.items():
        try:
            msgspec.convert(value, columns[key])
        except msgspec.ValidationError:
            name = _type_name(typing.get_type_hints(cls)[key])
            raise FednPartialError(f"{where}: column {key!r} must be {name}, found {str(value)[:60]!r}") from None
    return cls(**values)


@functools.cache
def _columns(cls) -> dict[str, object]:
    """Return the type against which msgspec checks each column of `cls`."""
    hints = typing.get_type_hints(cls).items()
    return {
        name: functools.reduce(
            operator.or_, (CHECKED.get(option, option) for option in typing.get_args(hint) or [hint])
        )
        for name, hint in hints
    }


def _type_name(hint) -> str:
    hint = next(iter(typing.get_args(hint)), hint)
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list of names"}
    return names.get(hint, "an object with numbers")


def _read_object(path: Path) -> dict:
    try:
        content = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise FednPartialError(
            f"{path}: not JSON ({error}); the file is incomplete or not a record of fedn-partial"
        ) from None
    if not isinstance(content, dict):
        raise FednPartialError(f"{path}: expected an object with keys and values, found {str(content)[:60]!r}")
    return content


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FednPartialError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise FednPartialError(f"{path}: not UTF-8 text; the file is damaged or not a record of fedn-partial") from None


def _dig(content, keys: tuple[str, ...]):
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content
