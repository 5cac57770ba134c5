"""The command group session."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import click

from fedn_partial.client.commands.common import (
    api_of,
    command,
    conclude,
    connects,
    events,
    json_option,
    runs_option,
    with_option,
)


@click.group()
def session():
    """Start sessions."""


@command(session, "start", "fedn-partial session start configs/cifar10-vgg16.yaml --api-url https://fedn.example.org")
@click.argument("config", type=Path)
@with_option
@runs_option
@json_option
@connects
def session_start(config, custom, runs, as_json, **options):
    """Start a session from FEDn's newest model and follow it; the exit code is 0 if its last round made a model.

    Ctrl-C ends the following; the session goes on in FEDn.
    """
    from fedn_partial.settings.case import load_case

    case, api = load_case(config, custom), api_of(options)
    from fedn_partial.client.follow import progress
    from fedn_partial.client.follow.poller import SessionPoller
    from fedn_partial.client.records.run_folder import RunFolder, new_folder
    from fedn_partial.seed_model.server_state import release
    from fedn_partial.seed_model.session import start_session

    path = new_folder(runs, case.name)
    with events(as_json) as tell:
        click.echo("comparing FEDn's newest model with the case")
        try:
            # Before the session: on a full disk there must not be one that nobody follows. Devices have their own data.
            folder = RunFolder(path, dataclasses.replace(case, data=None))
            session_id, layers = start_session(api, case)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)  # nothing has begun
            raise
        click.echo(f"session {session_id}")
        tell({"event": "session", "session": session_id})
        try:
            final = progress.follow(SessionPoller(api, session_id), case, layers, folder, tell=tell)
        except KeyboardInterrupt:
            raise click.ClickException(f"no longer following; session {session_id} goes on in FEDn") from None
        release(api, lambda line: click.echo(line, err=True))
        conclude(final, folder.rows, folder.path, tell)
