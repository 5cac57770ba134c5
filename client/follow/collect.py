"""Fetch the records of a running or finished session from FEDn, without contacting any device.

FEDn 0.33 stores for every session: the metadata of each update including the device's resource use (as statuses), the
metrics of each validation, and the settings of each round, which contain the outcomes of the previous round.
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
    """Write a run folder below `parent` from FEDn's records of the session `name`, and return its path.

    Raises
    ------
    FednPartialError : FEDn has no such session, or no round of it has ended.
    ApiError : FEDn does not answer.
    """
    session = find_session(api, name)
    poller = SessionPoller(api, session.id)
    poller.poll()
    rounds = sorted((round_ for round_ in poller.rounds.values() if round_.over), key=lambda round_: int(round_.id))
    if not rounds:
        raise FednPartialError(f"no round of session {name!r} has ended yet")
    folder = RunFolder(
        new_folder(parent, session.case.name),
        session.case,
        started=session.began,
        machine=f"devices of the FEDn server at {api.connection.base_url}",
        layers=session.layers,
        versions={},  # unknown: the devices' versions, not those installed here
    )
    for round_ in rounds:
        folder.write_rows(list(round_.rows.values()))
    for number, text in poller.notes():
        folder.add_note(number, text)
    final = progress.summary(rounds, session.case, poller.status)
    if not poller.over:
        ended = f"{len(rounds)} of {session.case.session.rounds} rounds"
        final["problem"] = f"FEDn still reports it as running, after {ended} (or its controller was stopped)"
    folder.finish(final)
    print(f"session {session.id}, started {session.began}: {folder.path}", file=sys.stderr)
    return folder.path
