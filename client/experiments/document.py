"""Write docs/RESULTS.md and its charts from the file of all results.

The template, results.md.jinja, holds the prose. Its numbers come from the methods of ``Document``, which look them up
by experiment and cell; whether a comparison is worded as a difference follows from Student's t.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedn_partial.client.charts.experiments import experiment_chart
from fedn_partial.client.experiments import definitions, statistics, tables
from fedn_partial.client.experiments import results as result_files
from fedn_partial.client.experiments.definitions import Experiment, Setup
from fedn_partial.client.experiments.paper import figures
from fedn_partial.client.experiments.results import Result
from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import write_text

TEMPLATE = "results.md.jinja"
BUDGETS = {"bytes": "upload_bytes", "computing": "training_macs"}
WIDTH = 120  # characters of a line
# Settings in which methods may differ
METHOD = ("merge", "shrinkage", "clip", "trim", "server_optimizer", "batchnorm_statistics", "selection")


def write(runs: Path, docs: Path) -> list[str]:
    """Update docs/results/runs.jsonl with the finished runs, and write document and charts from it.

    Parameters
    ----------
    runs : folder of all runs, which need not exist. docs : folder of the repository.

    Returns
    -------
    A line for each experiment of which some runs are missing.
    """
    store = docs / "results" / "runs.jsonl"
    experiments = [definitions.load(name, small) for small in (True, False) for name in definitions.names()]
    planned = {run.digest: run for experiment in experiments for run in experiment.runs}
    results = {digest: result for digest, result in result_files.read_all(store).items() if digest in planned}
    results |= result_files.collect(runs, list(planned.values()))
    result_files.write_all(store, results)
    document = Document(results, docs / "pictures")
    write_text(docs / "RESULTS.md", document.render())
    return document.lacking()


def write_one(experiment: Experiment, results: dict[str, Result], folder: Path) -> list[Path]:
    """Write table and chart of one experiment into `folder`, and return their paths."""
    paths = [folder / f"{experiment.slug}.md"]
    write_text(paths[0], tables.table(experiment, results).markdown() + "\n")
    chart = experiment_chart(experiment, results)
    if chart is not None:
        paths.append(folder / f"{experiment.slug}.svg")
        write_text(paths[1], chart)
    return paths


@dataclass(frozen=True)
class Document:
    """The document of these results; its charts are written into the folder `pictures`."""

    results: dict[str, Result]
    pictures: Path

    def render(self) -> str:
        """Write the charts and return the document."""
        import jinja2

        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        names = ("show", "below", "versus", "gap", "done", "missing", "lacking", "goal")
        functions = {name: getattr(self, name) for name in names}
        text = environment.get_template(TEMPLATE).render(**functions, paper=figures(), last=result_files.LAST)
        return _wrapped(text)

    # Functions of the template

    def lacking(self) -> list[str]:
        """Return a line for each experiment of whose small version some runs are missing."""
        return [line for name in definitions.names() if (line := self.missing(name))]

    def done(self, name: str) -> bool:
        """Return whether all runs of the small version are finished: only then are conclusions drawn from it."""
        return all(run.digest in self.results for run in definitions.load(name, small=True).runs)

    def missing(self, name: str) -> str | None:
        """Return which runs of the small version are missing, or None."""
        experiment = definitions.load(name, small=True)
        cells = []
        for cell in experiment.cells:
            seeds = [str(run.seed) for run in cell.runs if run.digest not in self.results]
            if seeds:
                cells.append(cell.label if len(seeds) == len(cell.runs) else f"{cell.label} (seed {', '.join(seeds)})")
        return f"{experiment.slug}: not run: {'; '.join(cells)}" if cells else None

    def show(self, name: str) -> str:
        """Return chart and table of the small version, and of the full size if some of its runs are finished."""
        return "\n\n".join(
            self._shown(definitions.load(name, small)) for small in (True, False) if small or self._any(name)
        )

    def below(self, name: str, label: str) -> str:
        """Return a cell's distance to full training, in points."""
        below = self._line(name, label).below
        return below.signed if below else "not run"

    def versus(self, name: str, label: str, other: str, equal: str = "rounds") -> str:
        """Return how far a cell is above or below another one at equal rounds, bytes or computing."""
        gap = self._difference(name, label, other, equal)
        if gap is None:
            return "not run"
        if not gap.significant:
            return f"no clear difference ({gap.signed} points)"
        size = statistics.Spread(abs(gap.mean), gap.deviation, gap.count)
        return f"{size} points {'above' if gap.mean > 0 else 'below'}"

    def gap(self, name: str, label: str, other: str) -> str:
        """Return the same at equal rounds, as a number for a table; bold if it is significant."""
        gap = self._difference(name, label, other)
        if gap is None:
            return "not run"
        return f"**{gap.signed}**" if gap.significant else gap.signed

    def goal(self) -> str:
        """Return a table of the distances of 7 and 4 layers to full training: the paper's, ours, and the best."""
        paper = figures()["accuracy"]["fig1"]
        rows = []
        for layers, goal in ((7, -0.5), (4, -2.0)):
            ours = self._line("defaults", f"{layers} layers, paper's way").below
            tried, label, best = self._best(layers)
            rows.append(
                (
                    f"{layers} of 14",
                    f"{goal:+.1f}",
                    f"{paper[layers] - paper[14]:+.2f}",
                    f"{ours.signed}: {_verdict(ours, goal)}" if ours else "not run",
                    f"{best.signed}: {_verdict(best, goal)}" if best else "not run",
                    f"{label}; of {tried}" if best else "-",
                )
            )
        heads = ("layers", "goal", "the paper", "the paper's way here", "the best way here", "which")
        caption = (
            "Points to full training at equal rounds, small versions of 20 rounds; whether the goal is met, at 95 %. "
            'The best was chosen by these same runs, "of" so many ways, which flatters it.'
        )
        return tables.ResultTable(caption, heads, tuple(rows)).markdown()

    def _difference(self, name: str, label: str, other: str, equal: str = "rounds") -> statistics.Spread | None:
        experiment = definitions.load(name, small=True)
        cells = _cell(experiment, label), _cell(experiment, other)
        if equal == "rounds":
            return statistics.difference(*cells, self.results)
        return statistics.difference_at_budget(experiment, *cells, self.results, BUDGETS[equal])

    def _any(self, name: str) -> bool:
        return any(run.digest in self.results for run in definitions.load(name, small=False).runs)

    def _shown(self, experiment: Experiment) -> str:
        text = tables.table(experiment, self.results).markdown()
        chart = experiment_chart(experiment, self.results)
        path = self.pictures / f"{experiment.slug}.svg"
        if chart is None:
            path.unlink(missing_ok=True)
            return text
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, chart)
        return f"![{experiment.title}]({path.parent.name}/{path.name})\n\n{text}"

    def _line(self, name: str, label: str) -> statistics.Line:
        experiment = definitions.load(name, small=True)
        cell = _cell(experiment, label)
        return next(line for line in statistics.lines(experiment, self.results) if line.label == cell.label)

    def _best(self, layers: int) -> tuple[int, str, statistics.Spread | None]:
        """Return how many methods to train so many layers were tried, and which comes closest to full training."""
        full = definitions.load("defaults", small=True).ceiling_cell
        gaps = {}
        for name, cell in self._methods(layers, full):
            gap = statistics.difference(cell, full, self.results)
            if gap and gap.count == len(cell.runs):
                gaps.setdefault(cell.runs[0].digest, (f"{name}, {cell.label}", gap))
        label, best = max(gaps.values(), key=lambda item: item[1].mean, default=("", None))
        return len(gaps), label, best

    def _methods(self, layers: int, full: Setup) -> Iterator[tuple[str, Setup]]:
        """Yield the cells, with their experiments, that train `layers` layers and differ from `full` in method only."""
        for name in definitions.names():
            for cell in definitions.load(name, small=True).cells:
                ours, theirs = (
                    {key: value for key, value in item.runs[0].settings.items() if key not in METHOD}
                    for item in (cell, full)
                )
                if ours == theirs and cell.runs[0].settings["selection"].get("layers") == layers:
                    yield name, cell


def _wrapped(text: str) -> str:
    """Return Markdown with the lines of paragraphs and list items filled, and the rest as it is."""
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


def _verdict(below: statistics.Spread, goal: float) -> str:
    if below.mean - below.margin >= goal:
        return "met"
    return "missed" if below.mean + below.margin < goal else "inconclusive"


def _cell(experiment: Experiment, label: str) -> Setup:
    for cell in experiment.cells:
        if cell.label == label:
            return cell
    labels = ", ".join(cell.label for cell in experiment.cells)
    raise FednPartialError(f"{TEMPLATE}: {experiment.name} has no cell {label!r}; it has {labels}")
