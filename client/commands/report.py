"""The command report."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fedn_partial.client.commands.common import api_of, command, connects, runs_option
from fedn_partial.errors import FednPartialError


@command(click, "report", "fedn-partial report runs/quickstart-20261121-083949 -o report.html")
@click.argument("folders", type=Path, nargs=-1)
@click.option("-o", "--output", type=Path, default=Path("report.html"), show_default=True)
@click.option(
    "--session",
    "sessions",
    multiple=True,
    help="Name (of several: the newest) or id of a session to collect from FEDn.",
)
@runs_option
@click.option("--json", "as_json", is_flag=True, help="Print key figures and written files as JSON.")
@connects
def report_command(folders, output, sessions, runs, as_json, **options):
    """Write runs and profiles as one HTML page, and their figures as CSV files beside it.

    Several runs are laid over each other. With one of full training (selector: all) among them, the others are
    compared with it. With --session, what FEDn keeps of an older session becomes a run's folder first.
    """
    if not folders and not sessions:
        raise FednPartialError("name the folder of a run or a profile, such as runs/NAME, or a session with --session")
    try:
        from fedn_partial.client.report.page import write_report
    except ModuleNotFoundError as error:
        raise FednPartialError(f"{error}; a report needs the operator's install: pip install '.[local]'") from None
    folders = list(folders)
    if sessions:
        from fedn_partial.client.follow.collect import collect

        folders += [collect(api_of(options), name, runs) for name in sessions]
    written = write_report(folders, output)
    if as_json:
        click.echo(json.dumps(written, indent=1))
        return
    click.echo("\n".join(written["result"]))
    click.echo(f"{output}: {output.stat().st_size / 1e3:.0f} kB; {len(written['csv'])} CSV files beside it")
