"""Write docs/RESULTS.md and its charts from the file of all results.

The prose is in the template results.md.jinja. Its numbers come from the methods of ``Document``, by experiment and
cell; a comparison is worded as a difference if it is significant by Student's t-test.
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
BUDGETS = {"bytes": "upload_bytes", "operations": "training_macs"}
WIDTH = 120  # characters per line
# Settings that define a method
METHOD_KEYS = ("merge", "shrinkage", "clip", "trim", "server_optimizer", "batchnorm_statistics", "selection")


def write(runs: Path, docs: Path) -> list[str]:
    """Update docs/results/runs.jsonl with the finished runs, and write the document and its charts.

    Parameters
    ----------
    runs : folder of all runs; may be missing.
    docs : folder of RESULTS.md.

    Returns
    -------
    One line for each experiment with missing runs.
    """
    store = docs / "results" / "runs.jsonl"
    experiments = [definitions.load(name, small) for small in (True, False) for name in definitions.names()]
    planned = {run.digest: run for experiment in experiments for run in experiment.runs}
    results = {digest: result for digest, result in result_files.read_all(store).items() if digest in planned}
    results |= result_files.collect(runs, list(planned.values()))
    result_files.write_all(store, results)
    document = Document(results, docs / "pictures")
    write_text(docs / "RESULTS.md", document.render())
    return document.missing_runs()


def write_one(experiment: Experiment, results: dict[str, Result], folder: Path) -> list[Path]:
    """Write the table and the chart of one experiment to `folder`, and return their paths."""
    paths = [folder / f"{experiment.slug}.md"]
    write_text(paths[0], tables.table(experiment, results).markdown() + "\n")
    chart = experiment_chart(experiment, results)
    if chart is not None:
        paths.append(folder / f"{experiment.slug}.svg")
        write_text(paths[1], chart)
    return paths


@dataclass(frozen=True)
class Document:
    """The document of a set of results; charts are written to the folder `pictures`."""

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
        names = ("show", "below", "versus", "gap", "is_complete", "missing", "missing_runs", "goal")
        functions = {name: getattr(self, name) for name in names}
        text = environment.get_template(TEMPLATE).render(**functions, paper=figures(), last=result_files.LAST)
        return _wrapped(text)

    # Functions of the template

    def missing_runs(self) -> list[str]:
        """Return one line for each experiment whose small version has missing runs."""
        return [line for name in definitions.names() if (line := self.missing(name))]

    def is_complete(self, name: str) -> bool:
        """Return whether all runs of the small version are finished."""
        return all(run.digest in self.results for run in definitions.load(name, small=True).runs)

    def missing(self, name: str) -> str | None:
        """Return the missing runs of the small version as one line, or None."""
        experiment = definitions.load(name, small=True)
        cells = []
        for cell in experiment.cells:
            seeds = [str(run.seed) for run in cell.runs if run.digest not in self.results]
            if seeds:
                cells.append(cell.label if len(seeds) == len(cell.runs) else f"{cell.label} (seed {', '.join(seeds)})")
        return f"{experiment.slug}: not run: {'; '.join(cells)}" if cells else None

    def show(self, name: str) -> str:
        """Return chart and table of the small version, and of the full size if any of its runs is finished."""
        return "\n\n".join(
            self._chart_and_table(definitions.load(name, small))
            for small in (True, False)
            if small or self._has_full_size(name)
        )

    def below(self, name: str, label: str) -> str:
        """Return the difference of a cell to full training, in points."""
        below = self._line(name, label).below
        return below.signed if below else "not run"

    def versus(self, name: str, label: str, other: str, equal: str = "rounds") -> str:
        """Return the difference of two cells at equal rounds, bytes or operations as text."""
        gap = self._difference(name, label, other, equal)
        if gap is None:
            return "not run"
        if not gap.significant:
            return f"no significant difference ({gap.signed} points)"
        size = statistics.Spread(abs(gap.mean), gap.deviation, gap.count)
        return f"{size} points {'above' if gap.mean > 0 else 'below'}"

    def gap(self, name: str, label: str, other: str) -> str:
        """Return the difference of two cells at equal rounds for a table, bold if it is significant."""
        gap = self._difference(name, label, other)
        if gap is None:
            return "not run"
        return f"**{gap.signed}**" if gap.significant else gap.signed

    def goal(self) -> str:
        """Return a table of the differences of 7 and 4 layers to full training: of the paper, here, and the best."""
        paper = figures()["accuracy"]["fig1"]
        rows = []
        for layers, goal in ((7, -0.5), (4, -2.0)):
            ours = self._line("defaults", f"{layers} layers, paper's method").below
            methods, label, best = self._best(layers)
            rows.append(
                (
                    f"{layers} of 14",
                    f"{goal:+.1f}",
                    f"{paper[layers] - paper[14]:+.2f}",
                    f"{ours.signed}: {_verdict(ours, goal)}" if ours else "not run",
                    f"{best.signed}: {_verdict(best, goal)}" if best else "not run",
                    f"{label}; of {methods}" if best else "-",
                )
            )
        heads = ("layers", "goal", "paper", "paper's method, here", "best method, here", "name of the best method")
        caption = (
            "Difference to full training in points at equal rounds, small versions with 20 rounds; whether the goal is "
            'met, at 95 %. The best method was selected from several ("of") on these same runs, which biases its '
            "result upwards."
        )
        return tables.ResultTable(caption, heads, tuple(rows)).markdown()

    def _difference(self, name: str, label: str, other: str, equal: str = "rounds") -> statistics.Spread | None:
        experiment = definitions.load(name, small=True)
        cells = _cell(experiment, label), _cell(experiment, other)
        if equal == "rounds":
            return statistics.difference(*cells, self.results)
        return statistics.difference_at_budget(experiment, *cells, self.results, BUDGETS[equal])

    def _has_full_size(self, name: str) -> bool:
        return any(run.digest in self.results for run in definitions.load(name, small=False).runs)

    def _chart_and_table(self, experiment: Experiment) -> str:
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
        """Return the number of methods that train `layers` layers, and the best one's label and difference to full."""
        full = definitions.load("defaults", small=True).ceiling_cell
        gaps = {}
        for name, cell in self._methods(layers, full):
            gap = statistics.difference(cell, full, self.results)
            if gap and gap.count == len(cell.runs):
                gaps.setdefault(cell.runs[0].digest, (f"{name}, {cell.label}", gap))
        label, best = max(gaps.values(), key=lambda item: item[1].mean, default=("", None))
        return len(gaps), label, best

    def _methods(self, layers: int, full: Setup) -> Iterator[tuple[str, Setup]]:
        """Yield experiment and cell of all runs with `layers` layers that differ from `full` in method only."""
        for name in definitions.names():
            for cell in definitions.load(name, small=True).cells:
                cell_task, full_task = (
                    {key: value for key, value in item.runs[0].settings.items() if key not in METHOD_KEYS}
                    for item in (cell, full)
                )
                if cell_task == full_task and cell.runs[0].settings["selection"].get("layers") == layers:
                    yield name, cell


def _wrapped(text: str) -> str:
    """Return Markdown with paragraphs and list items wrapped to WIDTH; other blocks are unchanged."""
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
