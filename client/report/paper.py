"""Puts our figures beside those of the paper (Alawadi et al. 2023, Tables 3, 4 and 5), which configs/paper.yaml holds.

Only VGG16 has a place in these tables: Table 3 at any width, Table 4 at width 1.0, Table 5 at 0.5 and batches of 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedn_partial.client.experiments.paper import figures
from fedn_partial.client.profiling.flavours import MIB
from fedn_partial.client.records.load import Cell, Profile, Run
from fedn_partial.client.report.statistics import FLOAT32, Table, mean, ratio

LAYERS = (4, 7, 10, 14)


def _vgg16_width(item: Run | Profile) -> float | None:
    """Return the width of a VGG16, or None if it is another model."""
    if item.setting("model", "name") != "vgg16":
        return None
    width = item.setting("model", "width")
    return float(width) if isinstance(width, (int, float)) else 1.0


# Table 3: what is sent


@dataclass(frozen=True)
class Sent:
    """A line of Table 3, by number of layers; `weights` in millions and `mib` are of as many clients as the paper's.

    Attributes
    ----------
    share : of a full float32 update. width, codec : of the model and its updates, None for the paper's line.
    """

    label: str
    weights: dict[int, float | None]
    mib: dict[int, float | None]
    share: dict[int, float | None]
    width: float | None = None
    codec: str | None = None


def table3(runs: list[Run], profiles: list[Profile]) -> list[Sent]:
    """Return the paper's line and one for each run and profile that has something to put beside it; or nothing.

    Ours is the mean update of a client that trained so many layers, times the paper's 10 clients, whatever the number
    of clients that we had: a client's update does not depend on the others.
    """
    paper = figures()["table3"]
    sources = [(run, [run]) for run in runs]
    sources += [(profile, [cell.run for cell in profile.cells if cell.run]) for profile in profiles]
    lines = []
    for item, parts in sources:
        width = _vgg16_width(item)
        line = _sent(item, [row for part in parts for row in part.rows], paper["clients"], width)
        if width is not None and any(value is not None for value in line.mib.values()):
            lines.append(line)
    if not lines:
        return []
    mib = {layers: paper["layers"][layers]["sent_mib"] for layers in LAYERS}
    printed = Sent(
        label="paper",
        weights={layers: paper["layers"][layers]["parameters_million"] for layers in LAYERS},
        mib=mib,
        share={layers: mib[layers] / mib[14] for layers in LAYERS},
    )
    return [printed, *lines]


def _sent(item: Run | Profile, rows: list, clients: int, width: float | None) -> Sent:
    weights, mib, share = {}, {}, {}
    for layers in LAYERS:
        group = [row for row in rows if len(row.layers) == layers and row.upload_bytes is not None]
        update = mean(row.upload_bytes for row in group)
        trained = mean(row.trained_params for row in group)
        weights[layers] = None if trained is None else clients * trained / 1e6
        mib[layers] = None if update is None else clients * update / MIB
        share[layers] = ratio(update, mean(FLOAT32 * row.total_params for row in group if row.total_params is not None))
    codec = item.setting("codec")
    return Sent(item.label, weights, mib, share, width, codec if isinstance(codec, str) else None)


def table3_csv(lines: list[Sent]) -> Table:
    columns = ("source", "layers", "weights_million", "sent_mib", "share_of_full")
    rows = [(line.label, n, line.weights[n], line.mib[n], line.share[n]) for line in lines for n in LAYERS]
    return Table("table3", columns, tuple(rows))


# Tables 4 and 5: what a round costs by flavour


@dataclass(frozen=True)
class Pair:
    """Our cell, and the paper's: its figures, "-" if it did not run there, None if the paper has no such cell."""

    ours: Cell | None
    paper: dict | str | None

    @property
    def gained(self) -> bool:
        """Whether it ran here, with all the layers asked for, and did not there."""
        if self.ours is None or self.ours.killed or self.ours.limited:
            return False
        return self.ours.seconds is not None and self.paper == "-"


@dataclass(frozen=True)
class Flavour:
    """One flavour of a profile: its cells by number of layers; why it was not tried, if it was not."""

    name: str
    pairs: dict[int, Pair]
    cpus: float | None = None
    memory_mib: float | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Costs:
    """A profile's flavours; `table` is the number of the paper's table that they are comparable with, or None."""

    profile: Profile
    table: int | None
    columns: tuple[int, ...]
    flavours: tuple[Flavour, ...]

    @property
    def gained(self) -> list[tuple[str, int]]:
        return [(f.name, layers) for f in self.flavours for layers, pair in f.pairs.items() if pair.gained]


def paper_table(profile: Profile) -> int | None:
    """Return which of the paper's tables a profile repeats: 4, 5, or None."""
    width = _vgg16_width(profile)
    if width == 1.0:
        return 4
    return 5 if width == 0.5 and profile.setting("training", "batch_size") == 4 else None


def costs(profile: Profile) -> Costs:
    """Return a profile's cells, flavour by flavour, each with the paper's beside it."""
    number = paper_table(profile)
    printed = figures()[f"table{number}"] if number else {}
    tried = list(dict.fromkeys(cell.flavour for cell in profile.cells))
    columns = sorted({int(cell.layers) for cell in profile.cells})
    if number and not columns:
        columns = list(LAYERS)
    flavours = []
    if number == 5:  # its only line stands beside whatever machine repeats it: few can play a Jetson Nano
        (nano,) = printed.values()
        printed = dict.fromkeys([*tried, *profile.refused], nano)
    for name in dict.fromkeys([*tried, *profile.refused]):
        own = {int(cell.layers): cell for cell in profile.cells if cell.flavour == name}
        one = next(iter(own.values()), None)
        flavours.append(
            Flavour(
                name=name,
                pairs={n: Pair(own.get(n), printed.get(name, {}).get(n)) for n in columns},
                cpus=one.cpus if one else None,
                memory_mib=one.memory_mib if one else None,
                refused=profile.refused.get(name),
            )
        )
    return Costs(profile, number, tuple(columns), tuple(flavours))


def costs_csv(number: int, found: list[Costs]) -> Table:
    """Return the CSV of one of the paper's tables, ours and theirs."""
    columns = ("source", "flavour", "layers", "seconds", "cpu_percent", "ram_mb", "ram_percent", "killed", "limited")
    rows = []
    for one in found:
        for flavour in one.flavours:
            for layers, pair in flavour.pairs.items():
                if pair.ours:
                    values = (getattr(pair.ours, name) for name in columns[3:])
                    rows.append((one.profile.label, flavour.name, layers, *values))
                if pair.paper == "-":
                    rows.append(("paper", flavour.name, layers, None, None, None, None, "did not run", None))
                elif pair.paper:
                    values = (pair.paper[name] for name in columns[3:7])
                    rows.append(("paper", flavour.name, layers, *values, None, None))
    return Table(f"table{number}", columns, tuple(dict.fromkeys(rows)))
