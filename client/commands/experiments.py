"""Commands for the paper's experiments: experiment, results."""

from __future__ import annotations

from pathlib import Path

import click

from fedn_partial.client.commands.common import command, runs_option
from fedn_partial.errors import FednPartialError


@command(click, "experiment", "fedn-partial experiment fig1 fig2b --small --source data")
@click.argument("names", nargs=-1, required=True)
@click.option("--small", is_flag=True, help="Run the small version: fewer images, a narrower VGG16, fewer rounds.")
@click.option(
    "--source",
    type=Path,
    help="Folder with the official files, or with a folder for each data set.  [default: download]",
)
@runs_option
def experiment_command(names, small, source, runs):
    """Run the experiments NAMES, or all: figures and tables of the paper, and comparisons of methods.

    They are defined in configs/experiments/. A run that several experiments share is run once, and kept.
    """
    try:
        from fedn_partial.client.experiments import definitions, document, tables
    except ModuleNotFoundError as error:
        raise FednPartialError(f"{error}; install what experiments need: pip install '.[local]'") from None
    from fedn_partial.client.experiments import run as runner
    from fedn_partial.client.experiments.results import collect

    names = definitions.names() if "all" in names else names
    experiments = [definitions.load(name, small) for name in dict.fromkeys(names)]
    folder = runs / "experiments"
    planned = runner.plan(experiments)
    done = sum(runner.is_finished(folder, digest) for digest in planned)
    click.echo(f"{len(planned)} runs, {done} of them done, in {folder}")
    if done < len(planned):
        from fedn_partial.client.simulation.workers import processors, workers

        with workers(processors()) as pool:
            try:
                runner.run_all(experiments, folder, source, pool)
            except KeyboardInterrupt:
                raise click.ClickException("interrupted; run the same command again to resume") from None
    results = collect(folder, [run for run, _ in planned.values()])
    for experiment in experiments:
        click.echo(f"\n{tables.table(experiment, results).text()}")
        written = document.write_one(experiment, results, folder)
        click.echo(f"written: {', '.join(map(str, written))}")


@command(click, "results", "fedn-partial results --docs docs")
@click.option("--docs", type=Path, default=Path("docs"), show_default=True, help="Folder of RESULTS.md.")
@runs_option
def results_command(docs, runs):
    """Write RESULTS.md and its charts from the completed experiments and the stored results of earlier ones."""
    from fedn_partial.client.experiments import document

    if not docs.is_dir():
        raise FednPartialError(f"--docs: no folder {docs}; run this in the project's folder")
    missing = document.write(runs / "experiments", docs)
    click.echo("\n".join([*missing, f"written: {docs / 'RESULTS.md'}"]))
