"""Compare the costs of a profile with the paper's (Alawadi et al. 2023, Tables 4 and 5, in configs/paper.yaml).

Both tables are of VGG16: Table 4 at width 1.0, Table 5 at width 0.5 with batches of 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedn_partial.client.experiments.paper import figures
from fedn_partial.client.records.load import Cell, Profile, Run

LAYERS = (4, 7, 10, 14)  # columns of the paper's tables


def vgg16_width(item: Run | Profile) -> float | None:
    """Return the width of a VGG16, or None if it is another model."""
    if item.setting("model", "name") != "vgg16":
        return None
    width = item.setting("model", "width")
    return float(width) if isinstance(width, (int, float)) else 1.0


@dataclass(frozen=True)
class Pair:
    """A cell of ours (None if it was not profiled) and of the paper: its figures, "-" if it did not run, or None."""

    ours: Cell | None
    paper: dict | str | None

    @property
    def gained(self) -> bool:
        """Whether it ran here, with all the layers requested, and did not run in the paper."""
        if self.ours is None or self.ours.killed or self.ours.limited:
            return False
        return self.ours.seconds is not None and self.paper == "-"


@dataclass(frozen=True)
class FlavourCosts:
    """One flavour of a profile: its cells by number of layers. refused : why it was not tried, or None."""

    name: str
    pairs: dict[int, Pair]
    cpus: float | None = None
    memory_mib: float | None = None
    refused: str | None = None


@dataclass(frozen=True)
class ProfileCosts:
    """A profile's cells beside the paper's. table : number of the paper's table that is comparable, or None."""

    profile: Profile
    table: int | None
    columns: tuple[int, ...]
    flavours: tuple[FlavourCosts, ...]

    @property
    def gained(self) -> list[tuple[str, int]]:
        return [(f.name, layers) for f in self.flavours for layers, pair in f.pairs.items() if pair.gained]


def paper_table(profile: Profile) -> int | None:
    """Return which of the paper's tables a profile repeats: 4, 5, or None."""
    width = vgg16_width(profile)
    if width == 1.0:
        return 4
    return 5 if width == 0.5 and profile.setting("training", "batch_size") == 4 else None


def costs(profile: Profile) -> ProfileCosts:
    """Return a profile's cells by flavour, each with the paper's."""
    number = paper_table(profile)
    names = list(dict.fromkeys([*(cell.flavour for cell in profile.cells), *profile.refused]))
    columns = sorted({int(cell.layers) for cell in profile.cells}) or (list(LAYERS) if number else [])
    printed = figures()[f"table{number}"] if number else {}
    if number == 5:  # its one line is a Jetson Nano's: it is compared with whatever machine repeats it
        (nano,) = printed.values()
        printed = dict.fromkeys(names, nano)
    flavours = [_flavour(profile, name, columns, printed.get(name, {})) for name in names]
    return ProfileCosts(profile, number, tuple(columns), tuple(flavours))


def _flavour(profile: Profile, name: str, columns: list[int], printed: dict) -> FlavourCosts:
    cells = {int(cell.layers): cell for cell in profile.cells if cell.flavour == name}
    first = next(iter(cells.values()), None)
    return FlavourCosts(
        name=name,
        pairs={layers: Pair(cells.get(layers), printed.get(layers)) for layers in columns},
        cpus=first.cpus if first else None,
        memory_mib=first.memory_mib if first else None,
        refused=profile.refused.get(name),
    )
