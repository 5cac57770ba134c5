"""Counts what a report shows: plain tables of numbers, which are also its CSV files.

Means leave out what is not known; a mean of nothing is None. Bytes are bytes, MB are 10**6 of them.
"""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from fedn_partial.client.records.load import Profile, Run
from fedn_partial.client.records.run_folder import Row, over_examples

PHASES = ("load", "import", "trace", "train", "encode")
SENSORS = ("gpu_percent", "temperature_c", "power_mw")  # of devices that have them
TIMES = ("seconds", "seconds_spread", "timed_updates", "timed_rounds")  # columns of a ``Times``
FLOAT32 = 4  # bytes of a weight in a full update


@dataclass(frozen=True)
class Table:
    """`name` of its CSV file; `columns`; `rows`, in which None is what is not known."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple, ...]

    def records(self, **wanted) -> list[dict]:
        """Return the rows in which every column named in `wanted` has that value, as {column: value}."""
        found = (dict(zip(self.columns, row, strict=True)) for row in self.rows)
        return [record for record in found if all(record[key] == value for key, value in wanted.items())]


@dataclass(frozen=True)
class ReportRound:
    """One round of a run: its number in the session, and a row for each client that answered.

    Attributes
    ----------
    validation_bytes : downloaded by clients that only validated its model, None if nobody did.
    """

    number: int
    rows: tuple[Row, ...]
    validation_bytes: float | None = None

    @property
    def download_bytes(self) -> float | None:
        return total([*(row.download_bytes for row in self.rows), self.validation_bytes])

    @property
    def warmup(self) -> bool:
        return any(row.warmup for row in self.rows)

    @property
    def failed(self) -> bool:
        """Whether no update came into the global model."""
        return not any(merged(row) for row in self.rows)


def merged(row: Row) -> bool:
    """Whether an update came into the global model, or may have: of the last round FEDn does not tell."""
    return row.outcome in ("merged", "sent")


def rounds(run: Run) -> list[ReportRound]:
    """Return the rounds of a run of which there are rows, in order.

    They are numbered as the server functions count; where these did not count, or anew, by FEDn's own numbers from 1.
    """
    found: dict[str, list[Row]] = defaultdict(list)
    for row in run.rows:
        found[row.fedn_round].append(row)
    counted = {id: {row.round for row in rows} for id, rows in found.items()}
    numbers = {id: int(next(iter(seen))) for id, seen in counted.items() if len(seen) == 1 and None not in seen}
    if len(set(numbers.values())) < len(found):
        if all(id.isdecimal() for id in found):
            first = min(map(int, found))
            numbers = {id: int(id) - first + 1 for id in found}
        else:
            numbers = {id: position for position, id in enumerate(found, start=1)}
    validations = run.validations
    return [ReportRound(numbers[id], tuple(found[id]), validations.get(id)) for id in sorted(found, key=numbers.get)]


def layer_names(run: Run) -> list[str]:
    """Return the model's layers from input to output.

    Older runs did not write them down: then those that somebody trained, in the order of a client that trained them
    all, or else by name.
    """
    if run.session.get("layers"):
        return list(run.session["layers"])
    seen = {name for row in run.rows if merged(row) for name in row.layers}
    longest = max((row.layers for row in run.rows if merged(row)), key=len, default=[])
    return list(dict.fromkeys(longest)) if set(longest) == seen else sorted(seen, key=natural)


def layer_count(run: Run) -> int | None:
    """Return how many layers the model has, or None if neither the folder nor a client that trained all says."""
    if run.session.get("layers"):
        return len(run.session["layers"])
    return next((len(set(row.layers)) for row in run.rows if _all_weights(row)), None)


def is_full(row: Row, layers: int | None) -> bool:
    """Whether a client trained all of the model's layers."""
    return _all_weights(row) or (layers is not None and len(row.layers) >= layers)


def _all_weights(row: Row) -> bool:
    return bool(row.layers) and row.trained_params is not None and row.trained_params == row.total_params


def natural(name: str) -> list:
    """Return a key that sorts conv2 before conv10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def mean(values: Iterable) -> float | None:
    """Return the mean of what is known, or None."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def spread(values: Iterable) -> float | None:
    """Return the sample standard deviation of what is known, or None if that is fewer than two values."""
    known = [value for value in values if value is not None]
    return statistics.stdev(known) if len(known) > 1 else None


def total(values: Iterable) -> float | None:
    """Return the sum of what is known, or None."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


# What a run comes to


@dataclass(frozen=True)
class Times:
    """Mean seconds of a client's round and their standard deviation, over `updates` that came in so many `rounds`."""

    mean: float | None
    spread: float | None
    updates: int
    rounds: int


@dataclass(frozen=True)
class Summary:
    """What one run comes to. Partial rows are those of clients that trained some of the layers, full ones all.

    Attributes
    ----------
    layers : of the model, None if not known. trained : fewest and most that a client trained after the warm-up.
    full_warmup : whether every update of the warm-up had all layers.
    full_training : whether every client trained every layer in every round, and not because it never got beyond its
        warm-up.
    accuracy : of the global model after round `accuracy_round`, the last one that somebody tested.
    upload_bytes : of all updates. full_upload_bytes : if each of these had been a full one, as float32.
    partial_upload_bytes, partial_full_bytes : the same of partial rows alone.
    download_bytes : of all clients. validation_bytes : those of them that came to clients that only validated.
    partial_times, full_times : of a client's round. partial_memory_mb, full_memory_mb : mean of its highest memory.
    problem : what the run itself says went wrong, or that it has not ended.
    """

    label: str
    layers: int | None
    trained: tuple[int, int] | None
    full_training: bool
    rounds: int
    warmup_rounds: int
    full_warmup: bool
    failed_rounds: int
    clients: int
    accuracy: float | None
    accuracy_round: int | None
    upload_bytes: float | None
    full_upload_bytes: float | None
    download_bytes: float | None
    validation_bytes: float | None
    partial_upload_bytes: float | None
    partial_full_bytes: float | None
    partial_times: Times
    full_times: Times
    partial_memory_mb: float | None
    full_memory_mb: float | None
    problem: str | None

    @property
    def partial_seconds(self) -> float | None:
        return self.partial_times.mean

    @property
    def full_seconds(self) -> float | None:
        return self.full_times.mean

    @property
    def upload_share(self) -> float | None:
        return ratio(self.upload_bytes, self.full_upload_bytes)

    @property
    def partial_upload_share(self) -> float | None:
        return ratio(self.partial_upload_bytes, self.partial_full_bytes)


def ratio(part: float | None, whole: float | None) -> float | None:
    """Return part / whole, or None if one of them is not known or there is no whole."""
    return part / whole if part is not None and whole else None


def summary(run: Run, memory: str) -> Summary:
    """Return what a run comes to; `memory` is the column that its memory is read from."""
    found = rounds(run)
    layers = layer_count(run)
    trained = [row for row in run.rows if row.layers]
    full = [row for row in trained if is_full(row, layers)]
    partial = [row for row in trained if not is_full(row, layers)]
    after_warmup = [len(row.layers) for row in trained if not row.warmup]
    good = [round_ for round_ in found if not round_.failed]
    tested = [(over_examples(round_.rows, "accuracy"), round_.number) for round_ in good]
    accuracy, accuracy_round = next((pair for pair in reversed(tested) if pair[0] is not None), (None, None))
    return Summary(
        label=run.label,
        layers=layers,
        trained=(min(after_warmup), max(after_warmup)) if after_warmup else None,
        full_training=bool(full) and not partial and bool(after_warmup),
        rounds=len(found),
        warmup_rounds=sum(round_.warmup for round_ in found),
        full_warmup=all(
            len(row.layers) == layers for round_ in found if round_.warmup for row in round_.rows if merged(row)
        ),
        failed_rounds=len(found) - len(good),
        clients=len({row.client for row in run.rows}),
        accuracy=accuracy,
        accuracy_round=accuracy_round,
        upload_bytes=total(row.upload_bytes for row in run.rows),
        full_upload_bytes=_full_bytes(run.rows),
        download_bytes=total(round_.download_bytes for round_ in found),
        validation_bytes=total(round_.validation_bytes for round_ in found),
        partial_upload_bytes=total(row.upload_bytes for row in partial),
        partial_full_bytes=_full_bytes(partial),
        partial_times=_times(partial),
        full_times=_times(full),
        partial_memory_mb=mean(getattr(row, memory) for row in partial),
        full_memory_mb=mean(getattr(row, memory) for row in full),
        problem=_problem(run.session.get("final") or {}),
    )


def _times(rows: list[Row]) -> Times:
    timed = [row for row in rows if row.round_seconds is not None]
    seconds = [row.round_seconds for row in timed]
    return Times(mean(seconds), spread(seconds), len(timed), len({row.fedn_round for row in timed}))


def _problem(final: dict) -> str | None:
    if not final:
        return "it has not ended, or was killed; its folder says nothing of an end"
    return str(final["problem"]).rstrip(".") if final.get("problem") else None


def _full_bytes(rows: Iterable[Row]) -> float | None:
    return total(FLOAT32 * row.total_params for row in rows if row.total_params is not None)


def memory_column(runs: list[Run]) -> str:
    """Return the column that the memory of all these runs can be compared by: older ones know the resident one only."""
    every = all(any(row.memory_peak_mb is not None for row in run.rows) for run in runs if run.rows)
    return "memory_peak_mb" if every else "rss_peak_mb"


def baseline(summaries: list[Summary]) -> Summary | None:
    """Return the run that others are compared with: the first that trained every layer in every round."""
    return next((one for one in summaries if one.full_training and one.accuracy is not None), None)


# Tables


def runs_table(summaries: list[Summary]) -> Table:
    columns = (
        *("run", "layers", "fewest_trained", "most_trained", "clients", "rounds", "warmup_rounds", "failed_rounds"),
        *(
            "accuracy",
            "accuracy_round",
            "upload_bytes",
            "full_upload_bytes",
            "upload_share",
            "partial_upload_share",
            "download_bytes",
        ),
        *(f"{kind}_round_{name}" for kind in ("partial", "full") for name in TIMES),
        *("partial_memory_mb", "full_memory_mb", "problem"),
    )
    rows = [
        (
            *(one.label, one.layers, *(one.trained or (None, None)), one.clients, one.rounds, one.warmup_rounds),
            *(
                one.failed_rounds,
                one.accuracy,
                one.accuracy_round,
                one.upload_bytes,
                one.full_upload_bytes,
                one.upload_share,
            ),
            *(one.partial_upload_share, one.download_bytes),
            *dataclasses.astuple(one.partial_times),
            *dataclasses.astuple(one.full_times),
            *(one.partial_memory_mb, one.full_memory_mb, one.problem),
        )
        for one in summaries
    ]
    return Table("runs", columns, tuple(rows))


def rounds_table(runs: list[Run]) -> Table:
    """One row a round: learning, bytes of all clients together, and coverage."""
    columns = (
        *("run", "round", "warmup", "failed", "clients", "accuracy", "loss", "train_loss"),
        *("upload_bytes", "full_upload_bytes", "download_bytes", "layers_trained", "layers"),
    )
    rows = []
    for run in runs:
        known = set(layer_names(run))
        for one in rounds(run):
            covered = {name for row in one.rows if merged(row) for name in row.layers} & known
            rows.append(
                (
                    *(run.label, one.number, one.warmup, one.failed, len(one.rows)),
                    *(over_examples(one.rows, "accuracy"), over_examples(one.rows, "loss")),
                    mean(row.train_loss for row in one.rows),
                    total(row.upload_bytes for row in one.rows),
                    _full_bytes(one.rows),
                    one.download_bytes,
                    *(len(covered), layer_count(run)),
                )
            )
    return Table("rounds", columns, tuple(rows))


def costs_table(runs: list[Run], memory: str) -> Table:
    """One row for each run and number of layers that a client trained: means over clients and rounds.

    `rest_seconds` is what a client's round takes beside the phases: download, upload, starting, waiting.
    """
    columns = (
        *("run", "layers", "updates", "round_seconds", *(f"{name}_seconds" for name in PHASES), "rest_seconds"),
        *("cpu_percent", "cpu_percent_lowest", "cpu_percent_highest"),
        *("memory_mb", "memory_mb_lowest", "memory_mb_highest"),
        *("upload_bytes", "upload_bytes_lowest", "upload_bytes_highest"),
    )
    rows = []
    for run in runs:
        groups = defaultdict(list)
        for row in run.rows:
            if row.layers:
                groups[len(row.layers)].append(row)
        for layers, group in sorted(groups.items()):
            rows.append(
                (
                    *(run.label, layers, len(group), mean(row.round_seconds for row in group)),
                    *(mean(row.phases.get(name) for row in group) for name in PHASES),
                    mean(map(_rest, group)),
                    *_spread(row.cpu_percent for row in group),
                    *_spread(getattr(row, memory) for row in group),
                    *_spread(row.upload_bytes for row in group),
                )
            )
    return Table("costs", columns, tuple(rows))


def _rest(row: Row) -> float | None:
    known = [row.phases[name] for name in PHASES if row.phases.get(name) is not None]
    return max(0.0, row.round_seconds - sum(known)) if row.round_seconds is not None and known else None


def _spread(values: Iterable) -> tuple[float | None, float | None, float | None]:
    known = [value for value in values if value is not None]
    return mean(known), min(known, default=None), max(known, default=None)


def layers_table(runs: list[Run]) -> Table:
    """One row for each run, layer and round: how many clients trained it, and its staleness after that round.

    A layer that was never trained is as stale as the run is old.
    """
    rows = []
    for run in runs:
        last = dict.fromkeys(layer_names(run), 0)
        for one in rounds(run):
            trained = [set(row.layers) for row in one.rows if merged(row)]
            for name in last:
                clients = sum(name in layers for layers in trained)
                last[name] = one.number if clients else last[name]
                rows.append((run.label, name, one.number, clients, len(one.rows), one.number - last[name]))
    return Table("layers", ("run", "layer", "round", "clients", "of_clients", "staleness"), tuple(rows))


def layers_by_client_table(runs: list[Run]) -> Table:
    """One row for each run, layer and client: in how many of the rounds that it answered its update had that layer."""
    rows = []
    for run in runs:
        counts: dict[tuple[str, str], int] = defaultdict(int)
        answered: dict[str, int] = defaultdict(int)
        for row in run.rows:
            answered[row.client] += 1
            for name in set(row.layers) if merged(row) else ():
                counts[name, row.client] += 1
        for name in layer_names(run):
            for client in sorted(answered, key=natural):
                rows.append((run.label, name, client, counts[name, client], answered[client]))
    return Table("layers_by_client", ("run", "layer", "client", "rounds", "of_rounds"), tuple(rows))


def staleness_table(runs: list[Run], layers: Table) -> Table:
    """One row for each run and layer: in how many rounds it was trained, staleness at the end and at its highest."""
    found: dict[tuple, list[dict]] = defaultdict(list)
    for record in layers.records():
        found[record["run"], record["layer"]].append(record)
    rows = []
    for run in runs:
        parameters = run.session.get("layers") or {}
        for name in layer_names(run):
            records = found[run.label, name]
            ages = [record["staleness"] for record in records]
            trained = sum(record["clients"] > 0 for record in records)
            updates = sum(record["clients"] for record in records)
            row = (run.label, name, parameters.get(name), trained, updates, ages[-1] if ages else None)
            rows.append((*row, max(ages, default=None)))
    columns = ("run", "layer", "parameters", "rounds_trained", "updates", "staleness", "longest_staleness")
    return Table("staleness", columns, tuple(rows))


def clients_table(runs: list[Run], memory: str) -> Table:
    """One row for each run and client: means over the rounds in which it trained, sums of all its bytes.

    `rounds` are those in which it answered, `trained` those in which it trained; accuracy is that of its last test.
    """
    columns = (
        *(
            "run",
            "client",
            "rounds",
            "trained",
            "layers",
            "upload_bytes",
            "download_bytes",
            "train_seconds",
            "round_seconds",
        ),
        *("cpu_percent", "memory_mb", *SENSORS, "accuracy"),
    )
    rows = []
    for run in runs:
        groups = defaultdict(list)
        for one in rounds(run):
            for row in one.rows:
                groups[row.client].append(row)
        for client in sorted(groups, key=natural):
            own = groups[client]
            trained = [row for row in own if row.layers]
            tested = [row.accuracy for row in own if row.accuracy is not None]
            rows.append(
                (
                    *(run.label, client, len(own), len(trained), mean(len(row.layers) for row in trained)),
                    *(total(row.upload_bytes for row in own), total(row.download_bytes for row in own)),
                    *(mean(row.train_seconds for row in trained), mean(row.round_seconds for row in trained)),
                    *(mean(row.cpu_percent for row in trained), mean(getattr(row, memory) for row in trained)),
                    *(mean(getattr(row, name, None) for row in trained) for name in SENSORS),
                    tested[-1] if tested else None,
                )
            )
    return Table("clients", columns, tuple(rows))


def problems_table(runs: list[Run], profiles: list[Profile]) -> Table:
    """One row for each client and round in which something went wrong: what kind of thing, and why."""
    rows = []
    for profile in profiles:
        for cell in profile.cells:
            if cell.killed:
                rows.append((f"{cell.flavour}, {cell.layers} layers", None, "its client", "killed", cell.killed))
        for flavour, layers in profile.missing:
            rows.append((f"{flavour}, {layers} layers", None, "its client", "not tried", "the profile ended before"))
        for flavour, why in profile.refused.items():
            rows.append((profile.label, None, flavour, "not tried", why))
    # A profile's client has data of its own, whatever the case says.
    of_cells = [(cell.run, {}) for profile in profiles for cell in profile.cells if cell.run]
    for run, data in [*((run, run.data or {}) for run in runs), *of_cells]:
        found = rounds(run)
        first_seen: dict[str, int] = {}
        for one in found:
            for row in one.rows:
                first_seen.setdefault(row.client, one.number)
        for one in found:
            for row in one.rows:
                for kind, why in _complaints(row):
                    rows.append((run.label, one.number, row.client, kind, why))
            for client in _missing(run, one, first_seen, data):
                rows.append((run.label, one.number, client, "no answer", "nothing came from it in this round"))
        for number in _gaps([one.number for one in found]):
            rows.append((run.label, number, "all clients", "no answer", "nothing came from any client in this round"))
        rows += [(run.label, number, "the server", "noted", text) for number, text in run.notes]
        expected = data.get("clients")
        asked = isinstance(expected, int) and _drawn(run, expected) is None
        if found and asked and expected > len(first_seen):
            silent = f"{expected - len(first_seen)} of the {expected} clients"
            rows.append((run.label, None, silent, "no answer", "nothing ever came from it"))
    return Table("problems", ("run", "round", "client", "kind", "why"), tuple(rows))


def _drawn(run: Run, clients: int) -> int | None:
    """Return how many of its `clients` a session draws for each round, or None if it asks all."""
    drawn = run.setting("session", "clients_per_round")
    return drawn if isinstance(drawn, int) and drawn < clients else None


def _missing(run: Run, one: ReportRound, first_seen: dict[str, int], data: dict) -> list[str]:
    """Return the clients of which nothing came in a round: those that had answered before.

    Where the session draws clients, rows do not tell which ones: then how many of them.
    """
    expected = data.get("clients")
    drawn = _drawn(run, expected if isinstance(expected, int) else len(first_seen))
    if drawn is not None:
        left = drawn - len(one.rows)
        return [f"{left} of the {drawn} clients drawn"] if left > 0 else []
    missing = {client for client, number in first_seen.items() if number < one.number}
    return sorted(missing - {row.client for row in one.rows}, key=natural)


def _complaints(row: Row):
    for kind in ("refused", "skipped"):
        if row.outcome.startswith(kind):
            yield kind, row.outcome.partition(": ")[2] or "no reason given"
    if row.outcome == "round failed":
        yield "round failed", "the global model stayed as it was"
    if row.limited:
        yield "fewer layers", row.limited


def _gaps(numbers: list[int]) -> list[int]:
    seen = set(numbers)
    gaps = (number for number in range(min(seen, default=1), max(seen, default=0)) if number not in seen)
    return [number for number, _ in zip(gaps, range(1000), strict=False)]  # a damaged number must not fill the disk


def flavours_table(profiles: list[Profile]) -> Table:
    """One row for each cell of each profile."""
    columns = (
        *("profile", "flavour", "cpus", "memory_mib", "layers", "total_layers", "rounds", "seconds", "round_seconds"),
        *("cpu_percent", "ram_mb", "ram_percent", "killed", "limited"),
    )
    rows = [
        (profile.label, *(getattr(cell, name) for name in columns[1:]))
        for profile in profiles
        for cell in profile.cells
    ]
    return Table("flavours", columns, tuple(rows))


def spans(numbers: Iterable[int]) -> str:
    """Return numbers in words: "1, 3-5"."""
    groups: list[list[int]] = []
    for number in sorted(set(numbers)):
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(f"{group[0]}" if len(group) == 1 else f"{group[0]}-{group[-1]}" for group in groups)
