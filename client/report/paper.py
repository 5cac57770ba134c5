"""Compare the costs of a profile with Tables 4 and 5 of the paper (Alawadi et al. 2023, in configs/paper.yaml).

Both tables are for VGG16: Table 4 at width 1.0, Table 5 at width 0.5 with a batch size of 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedn_partial.client.experiments.paper import figures
from fedn_partial.client.records.load import Cell, Profile, Run

LAYERS = (4, 7, 10, 14)  # columns of the paper's tables


def vgg16_width(item: Run | Profile) -> float | None:
    """Return the width of the VGG16 of a run or profile, or None for other models."""
    if item.setting("model", "name") != "vgg16":
        return None
    width = item.setting("model", "width")
    return float(width) if isinstance(width, (int, float)) else 1.0


@dataclass(frozen=True)
class Pair:
    """A cell of a profile and the same cell of the paper.

    Attributes
    ----------
    ours : cell of the profile, or None if it was not profiled.
    paper : figures of the paper, "-" if the training did not run there, or None if it has no such cell.
    """

    ours: Cell | None
    paper: dict | str | None

    @property
    def gained(self) -> bool:
        """Whether all requested layers were trained here, but the training did not run in the paper."""
        if self.ours is None or self.ours.killed or self.ours.limited:
            return False
        return self.ours.seconds is not None and self.paper == "-"


@dataclass(frozen=True)
class FlavourCosts:
    """One flavour of a profile.

    Attributes
    ----------
    pairs : {number of layers: pair}.
    refused : reason why the flavour was not profiled, or None.
    """

    name: str
    pairs: dict[int, Pair]
    cpus: float | None = None
    memory_mib: float | None = None
    refused: str | None = None


@dataclass(frozen=True)
class ProfileCosts:
    """The cells of a profile with those of the paper.

    Attributes
    ----------
    table : number of the comparable table in the paper, or None.
    columns : numbers of layers.
    """

    profile: Profile
    table: int | None
    columns: tuple[int, ...]
    flavours: tuple[FlavourCosts, ...]

    @property
    def gained(self) -> list[tuple[str, int]]:
        return [(f.name, layers) for f in self.flavours for layers, pair in f.pairs.items() if pair.gained]


def paper_table(profile: Profile) -> int | None:
    """Return the number of the table in the paper that a profile reproduces: 4, 5, or None."""
    width = vgg16_width(profile)
    if width == 1.0:
        return 4
    return 5 if width == 0.5 and profile.setting("training", "batch_size") == 4 else None


def costs(profile: Profile) -> ProfileCosts:
    """Return the cells of a profile by flavour, with those of the paper."""
    number = paper_table(profile)
    names = list(dict.fromkeys([*(cell.flavour for cell in profile.cells), *profile.refused]))
    columns = sorted({int(cell.layers) for cell in profile.cells}) or (list(LAYERS) if number else [])
    printed = figures()[f"table{number}"] if number else {}
    if number == 5:  # contains the Jetson Nano only, which is compared with every flavour
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
