"""Writes docs/RESULTS.md and its pictures from the file of all results. Every number in it is counted here.

The template, results.md.jinja, holds the prose. What it says of results it says through the functions below: a number
is looked up by experiment and cell, and a comparison gets its words from the figures.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedn_partial.client.experiments import definitions, pictures, tables
from fedn_partial.client.experiments import results as kept
from fedn_partial.client.experiments.definitions import Experiment, Setup
from fedn_partial.client.experiments.paper import figures
from fedn_partial.client.experiments.results import Result
from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import write_text

TEMPLATE = "results.md.jinja"
BUDGETS = {"bytes": "upload_bytes", "computing": "training_macs"}
WIDTH = 120  # characters of a line
METHOD = ("merge", "shrinkage", "batchnorm_statistics", "selection")  # what a way to train some layers may choose


def write(runs: Path, docs: Path) -> list[str]:
    """Bring docs/results/runs.jsonl up to date with the runs that are done, and write document and pictures from it.

    Parameters
    ----------
    runs : folder of all runs, which need not be there. docs : folder of the repository.

    Returns
    -------
    What is missing: a line for each experiment of which some runs are not done.
    """
    store = docs / "results" / "runs.jsonl"
    experiments = [definitions.load(name, small) for small in (True, False) for name in definitions.names()]
    wanted = {run.digest: run for experiment in experiments for run in experiment.runs}
    before = kept.read_all(store)
    found = {digest: result for digest, result in before.items() if digest in wanted}
    found |= kept.collect(runs, list(wanted.values()))
    kept.write_all(store, found)
    book = Book(found, docs / "pictures")
    write_text(docs / "RESULTS.md", book.render())
    return book.lacking()


def write_one(experiment: Experiment, results: dict[str, Result], folder: Path) -> list[Path]:
    """Write table and picture of one experiment into `folder`, and return their paths."""
    paths = [folder / f"{experiment.slug}.md"]
    write_text(paths[0], tables.table(experiment, results).markdown() + "\n")
    picture = pictures.draw(experiment, results)
    if picture is not None:
        paths.append(folder / f"{experiment.slug}.svg")
        write_text(paths[1], picture)
    return paths


@dataclass(frozen=True)
class Book:
    """What the template asks. `pictures` is the folder that its pictures are written to."""

    results: dict[str, Result]
    pictures: Path

    def render(self) -> str:
        """Return the document; its pictures are written on the way."""
        import jinja2

        loader = jinja2.FileSystemLoader(Path(__file__).parent)
        environment = jinja2.Environment(
            loader=loader,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        names = ("show", "below", "versus", "gap", "done", "missing", "lacking", "goal")
        told = {name: getattr(self, name) for name in names}
        return _wrapped(environment.get_template(TEMPLATE).render(**told, paper=figures(), last=kept.LAST))

    # What the template calls

    def lacking(self) -> list[str]:
        """Return a line for each experiment of whose small version some runs are not done."""
        return [line for name in definitions.names() if (line := self.missing(name))]

    def done(self, name: str) -> bool:
        """Whether all runs of the small version are done: only then is anything said of it."""
        return all(run.digest in self.results for run in definitions.load(name, small=True).runs)

    def missing(self, name: str) -> str | None:
        """Return what of the small version is not done, or None."""
        experiment = definitions.load(name, small=True)
        told = []
        for cell in experiment.cells:
            seeds = [str(run.seed) for run in cell.runs if run.digest not in self.results]
            if seeds:
                told.append(cell.label if len(seeds) == len(cell.runs) else f"{cell.label} (seed {', '.join(seeds)})")
        if not told:
            return None
        return f"{experiment.slug}: not run: {'; '.join(told)}"

    def show(self, name: str) -> str:
        """Return picture and table of the small version, and of the full size if some of its runs are done."""
        return "\n\n".join(
            self._shown(definitions.load(name, small)) for small in (True, False) if small or self._any(name)
        )

    def below(self, name: str, label: str) -> str:
        """Return a cell's distance to full training, in points."""
        below = self._line(name, label).below
        return below.signed if below else "not run"

    def versus(self, name: str, label: str, other: str, equal: str = "rounds") -> str:
        """Return how one cell does beside another at equal rounds, bytes or computing; the figures choose the words."""
        gap = self._apart(name, label, other, equal)
        if gap is None:
            return "not run"
        if not gap.sure:
            return f"no clear difference ({gap.signed} points)"
        return f"{tables.Spread(abs(gap.mean), gap.deviation, gap.count)} points {'above' if gap.mean > 0 else 'below'}"

    def gap(self, name: str, label: str, other: str) -> str:
        """Return the same as a number for a table, bold where it is sure."""
        gap = self._apart(name, label, other)
        if gap is None:
            return "not run"
        return f"**{gap.signed}**" if gap.sure else gap.signed

    def goal(self) -> str:
        """Return how far 4 and 7 layers are from full training, in the paper, in the paper's way here, and at best."""
        paper = figures()["accuracy"]["fig1"]
        rows = []
        for layers, wanted in ((7, -0.5), (4, -2.0)):
            way = self._line("defaults", f"{layers} layers, paper's way")
            tried, where, best = self._best(layers)
            rows.append(
                (
                    f"{layers} of 14",
                    f"{wanted:+.1f}",
                    f"{paper[layers] - paper[14]:+.2f}",
                    f"{way.below.signed}: {_verdict(way.below, wanted)}" if way.below else "not run",
                    f"{best.signed}: {_verdict(best, wanted)}" if best else "not run",
                    f"{where}; of {tried}" if best else "-",
                )
            )
        heads = ("layers", "goal", "the paper", "the paper's way here", "the best way here", "which")
        return tables.ResultTable(
            "Points to full training at equal rounds, small versions of 20 rounds; whether the goal is met, at 95 %. "
            'The best was chosen by these same runs, "of" so many ways, which flatters it.',
            heads,
            tuple(rows),
        ).markdown()

    # How

    def _apart(self, name: str, label: str, other: str, equal: str = "rounds") -> tables.Spread | None:
        experiment = definitions.load(name, small=True)
        cells = _cell(experiment, label), _cell(experiment, other)
        if equal == "rounds":
            return tables.apart(*cells, self.results)
        return tables.apart_at(experiment, *cells, self.results, BUDGETS[equal])

    def _any(self, name: str) -> bool:
        return any(run.digest in self.results for run in definitions.load(name, small=False).runs)

    def _shown(self, experiment: Experiment) -> str:
        told = tables.table(experiment, self.results).markdown()
        picture = pictures.draw(experiment, self.results)
        path = self.pictures / f"{experiment.slug}.svg"
        if picture is None:
            path.unlink(missing_ok=True)
            return told
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, picture)
        return f"![{experiment.title}]({path.parent.name}/{path.name})\n\n{told}"

    def _line(self, name: str, label: str) -> tables.Line:
        experiment = definitions.load(name, small=True)
        cell = _cell(experiment, label)
        return next(line for line in tables.lines(experiment, self.results) if line.label == cell.label)

    def _best(self, layers: int) -> tuple[int, str, tables.Spread | None]:
        """Return of how many ways to train so many layers, else as in Figure 1, which comes closest to full."""
        full = definitions.load("defaults", small=True).ceiling_cell
        found = {}
        for name, cell in self._ways(layers, full):
            gap = tables.apart(cell, full, self.results)
            if gap and gap.count == len(cell.runs):
                found.setdefault(cell.runs[0].digest, (f"{name}, {cell.label}", gap))
        where, best = max(found.values(), key=lambda way: way[1].mean, default=("", None))
        return len(found), where, best

    def _ways(self, layers: int, full: Setup) -> Iterator[tuple[str, Setup]]:
        for name in definitions.names():
            for cell in definitions.load(name, small=True).cells:
                mine, theirs = (
                    {key: value for key, value in one.runs[0].settings.items() if key not in METHOD}
                    for one in (cell, full)
                )
                if mine == theirs and cell.runs[0].settings["selection"].get("layers") == layers:
                    yield name, cell


def _wrapped(text: str) -> str:
    """Return Markdown with the lines of paragraphs and list items filled; what else there is stays."""
    blocks = []
    for block in re.split(r"\n{2,}", text.strip()):
        if block.startswith(("#", "|", "![", "```")):
            blocks.append(block)
            continue
        items = re.split(r"\n(?=- )", block)
        filled = (
            textwrap.fill(
                " ".join(item.split()),
                WIDTH,
                subsequent_indent="  " if item.startswith("- ") else "",
                break_long_words=False,
                break_on_hyphens=False,
            )
            for item in items
        )
        blocks.append("\n".join(filled))
    return "\n\n".join(blocks) + "\n"


def _verdict(below: tables.Spread, wanted: float) -> str:
    if below.mean - below.margin >= wanted:
        return "met"
    return "missed" if below.mean + below.margin < wanted else "cannot be told"


def _cell(experiment: Experiment, label: str) -> Setup:
    for cell in experiment.cells:
        if cell.label == label:
            return cell
    known = ", ".join(cell.label for cell in experiment.cells)
    raise FednPartialError(f"{TEMPLATE}: {experiment.name} has no cell {label!r}; it has {known}")
