"""Commands that run a session on this machine: run, simulate."""

from __future__ import annotations

from pathlib import Path

import click

from fedn_partial.client.commands.common import (
    command,
    conclude,
    events,
    json_option,
    remove_run,
    remove_unstarted,
    runs_option,
    shell_words,
    with_option,
)
from fedn_partial.errors import FednPartialError


@command(click, "run", "fedn-partial run configs/quickstart.yaml")
@click.argument("config", type=Path)
@click.option(
    "--source",
    type=Path,
    help="Folder with the official files of the case's data set.  [default: download]",
    show_default=False,
)
@with_option
@runs_option
@json_option
def run_command(config, source, custom, runs, as_json):
    """Run a session on this machine, with a local FEDn network and clients."""
    from fedn_partial.settings.case import load_case

    case = load_case(config, custom)
    from fedn_partial.client.data import data_sets
    from fedn_partial.seed_model.case_checks import check_case, check_data, check_fleet

    check_fleet(case)
    check_case(case)
    origin, shards = data_sets.partition_case(case.data, case.seed, source)
    check_data(case, shards)
    from fedn_partial.client.fleet.local_run import network_was_started, run
    from fedn_partial.client.records.run_folder import RunFolder, new_folder

    folder = RunFolder(new_folder(runs, case.name), case)
    with events(as_json) as on_event:
        try:
            final = run(case, folder, origin, shards, on_event)
        except KeyboardInterrupt:
            raise click.ClickException(
                f"interrupted; everything is stopped, the completed rounds are in {folder.path}"
            ) from None
        except FednPartialError:
            if not network_was_started(folder.path):
                remove_run(folder.path)
            raise
        conclude(final, folder.rows, folder.path, on_event)


@command(click, "simulate", "fedn-partial simulate configs/quickstart.yaml")
@click.argument("config", type=Path)
@click.option("--source", type=Path, help="Folder with the official files of the case's data set.  [default: download]")
@click.option("--data", type=Path, help="Folder of shards from 'data prepare', instead of the case's data.")
@click.option(
    "--processes", type=click.IntRange(min=1), help="Number of worker processes.  [default: one per processor]"
)
@click.option("--resume", type=Path, metavar="FOLDER", help="Resume the run in this folder.")
@with_option
@runs_option
@json_option
def simulate_command(config, source, data, processes, resume, custom, runs, as_json):
    """Simulate a session without FEDn: the same training, updates, merging and report.

    The result does not depend on the number of processes, or on interruptions.
    """
    from fedn_partial.settings.case import load_case

    case = load_case(config, custom)
    from fedn_partial.client.records.load import load_run
    from fedn_partial.client.records.run_folder import new_folder
    from fedn_partial.client.simulation import simulate
    from fedn_partial.client.simulation.workers import processors, workers

    if resume is not None and not (resume / "session.json").exists():
        raise FednPartialError(f"--resume: {resume} is not a run's folder")
    folder = resume or new_folder(runs, case.name)
    with events(as_json) as on_event, workers(processes or processors()) as pool:
        try:
            final = simulate(case, folder, source, pool, data, on_event)
        except KeyboardInterrupt:
            if remove_unstarted(folder):
                raise click.ClickException("interrupted before the first round; the folder is removed") from None
            options = {"--source": source, "--data": data, "--with": custom}
            words = [word for name, path in options.items() if path for word in (name, path)]
            resume_command = shell_words("simulate", config, *words, "--resume", folder)
            raise click.ClickException(f"interrupted; resume with: {resume_command}") from None
        except FednPartialError:
            remove_unstarted(folder)
            raise
        conclude(final, load_run(folder).rows, folder, on_event)
