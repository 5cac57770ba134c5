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
    help="Name (the newest of that name) or id of a session to collect from FEDn.",
)
@runs_option
@click.option("--json", "as_json", is_flag=True, help="Print the key figures and the written files as JSON.")
@connects
def report_command(folders, output, sessions, runs, as_json, **options):
    """Write a report of runs and profiles as one HTML page, with CSV files of its figures beside it.

    Several runs are shown in the same charts, and compared with one of full training (selector: all) if there is one.
    With --session, a run's folder is first created from the data that FEDn keeps of a session.
    """
    if not folders and not sessions:
        raise FednPartialError(
            "no run: give the folder of a run or a profile, such as runs/NAME, or a session with --session"
        )
    try:
        from fedn_partial.client.report.page import write_report
    except ModuleNotFoundError as error:
        raise FednPartialError(f"{error}; install what reports need: pip install '.[local]'") from None
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
