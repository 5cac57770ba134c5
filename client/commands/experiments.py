"""Commands that repeat the paper's experiments: experiment, results."""

from __future__ import annotations

from pathlib import Path

import click

from fedn_partial.client.commands.common import command, runs_option
from fedn_partial.errors import FednPartialError


@command(click, "experiment", "fedn-partial experiment fig1 fig2b --small --source data")
@click.argument("names", nargs=-1, required=True)
@click.option("--small", is_flag=True, help="Fewer images, a narrower VGG16, fewer rounds: for two processors.")
@click.option(
    "--source", type=Path, help="Folder with the data sets' official files, or a folder of each.  [default: downloaded]"
)
@runs_option
def experiment_command(names, small, source, runs):
    """Repeat figures and tables of the paper, or compare ways to choose and merge layers: NAMES, or all.

    What is in them: configs/experiments/. A run that several need is run once; what is done is kept.
    """
    try:
        from fedn_partial.client.experiments import definitions, document, tables
    except ModuleNotFoundError as error:
        raise FednPartialError(f"{error}; experiments need the operator's install: pip install '.[local]'") from None
    from fedn_partial.client.experiments import run as runner
    from fedn_partial.client.experiments.results import collect

    names = definitions.names() if "all" in names else names
    experiments = [definitions.load(name, small) for name in dict.fromkeys(names)]
    folder = runs / "experiments"
    planned = runner.plan(experiments)
    done = sum(runner.is_done(folder, digest) for digest in planned)
    click.echo(f"{len(planned)} runs, {done} of them done, in {folder}")
    if done < len(planned):
        from fedn_partial.client.simulation.workers import processors, workers

        with workers(processors()) as pool:
            try:
                runner.run_all(experiments, folder, source, pool)
            except KeyboardInterrupt:
                raise click.ClickException("interrupted; the same command goes on from the last round") from None
    results = collect(folder, [run for run, _ in planned.values()])
    for experiment in experiments:
        click.echo(f"\n{tables.table(experiment, results).text()}")
        written = document.write_one(experiment, results, folder)
        click.echo(f"written: {', '.join(map(str, written))}")


@command(click, "results", "fedn-partial results --docs docs")
@click.option("--docs", type=Path, default=Path("docs"), show_default=True, help="Folder of RESULTS.md.")
@runs_option
def results_command(docs, runs):
    """Write RESULTS.md and its pictures, from the experiments that are done and from what is kept of earlier ones."""
    from fedn_partial.client.experiments import document

    if not docs.is_dir():
        raise FednPartialError(f"--docs: there is no folder {docs}; start this in the project's folder")
    missing = document.write(runs / "experiments", docs)
    click.echo("\n".join([*missing, f"written: {docs / 'RESULTS.md'}"]))
