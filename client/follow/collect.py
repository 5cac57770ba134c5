"""Fetches the figures of a session from FEDn, also of one that ended long ago: no device has to be asked.

FEDn 0.33 keeps, for every session: the metadata of each update with what it cost the device (among its statuses), the
metrics of each validation, and the settings of each round, which say what became of the updates of the round before.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fedn_partial.client.fedn_api.api import Api
from fedn_partial.client.follow import progress
from fedn_partial.client.follow.poller import SessionPoller
from fedn_partial.client.records.run_folder import RunFolder, new_folder
from fedn_partial.errors import FednPartialError
from fedn_partial.seed_model.session import find_session


def collect(api: Api, name: str, parent: Path) -> Path:
    """Write the folder of a run below `parent` from what FEDn keeps of the session `name`, and return its path.

    Raises
    ------
    FednPartialError : FEDn has no such session, or no round of it. ApiError : FEDn does not answer.
    """
    session = find_session(api, name)
    poller = SessionPoller(api, session.id)
    poller.poll()
    rounds = sorted((round_ for round_ in poller.rounds.values() if round_.over), key=lambda round_: int(round_.id))
    if not rounds:
        raise FednPartialError(f"no round of session {name!r} is over yet")
    folder = RunFolder(
        new_folder(parent, session.case.name),
        session.case,
        started=session.began,
        machine=f"devices of the FEDn server at {api.connection.base_url}",
        layers=session.layers,
        versions={},  # of the devices; what is installed here did not run it
    )
    for round_ in rounds:
        folder.write_rows(list(round_.rows.values()))
    for number, text in poller.notes():
        folder.note(number, text)
    final = progress.summary(rounds, session.case, poller.status)
    if not poller.over:
        of = f"{len(rounds)} of {session.case.session.rounds} rounds"
        final["problem"] = f"FEDn says that it still goes on, after {of} (or its controller was stopped meanwhile)"
    folder.finish(final)
    print(f"session {session.id}, begun {session.began}: {folder.path}", file=sys.stderr)
    return folder.path
