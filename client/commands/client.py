"""The command group client, and the command doctor."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from fedn_partial.client.commands.common import command, connects


@click.group()
def client():
    """Run the client of a device."""


@command(client, "start", "fedn-partial client start --config client.yaml")
@click.option("--config", type=Path, default=Path("client.yaml"), show_default=True, help="This device's file.")
@connects
def client_start(config, **options):
    """Join FEDn and train in every round until stopped; retry while the server is away.

    The file is FEDn's own client.yaml (name, api_url, token, ...) with a section 'fedn_partial'. Options override the
    file, and the file overrides environment variables.
    """
    from fedn_partial.client.device.device_client import device_connection, run_client

    try:
        run_client(config, device_connection(config, options))
    except KeyboardInterrupt:
        click.echo("stopped", err=True)


@command(click, "doctor", "fedn-partial doctor --config client.yaml")
@click.option(
    "--config", type=Path, help="This device's file.  [default: client.yaml, if it exists]", show_default=False
)
@click.option("--json", "as_json", is_flag=True, help="Print all results as one JSON object at the end.")
@connects
def doctor_command(config, as_json, **options):
    """Check this device before it joins FEDn; the exit code is 1 if there are problems.

    Changes nothing on this device or in FEDn: no client is registered.
    """
    from fedn_partial.client.doctor.check import PROBLEM
    from fedn_partial.client.doctor.doctor import examine

    checks = []
    for check in examine(config, options, on_event=lambda line: as_json or click.echo(line, err=True)):
        checks.append(check)
        if not as_json:
            click.echo(f"{check.state:8} {check.name:16} {check.text}")
    problems = [check.name for check in checks if check.state == PROBLEM]
    if as_json:
        click.echo(json.dumps({"ok": not problems, "checks": [vars(check) for check in checks]}, indent=1))
    else:
        click.echo(f"\nproblems: {', '.join(problems)}" if problems else "\nno problems found")
    sys.exit(1 if problems else 0)
