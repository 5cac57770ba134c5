"""Starting and finding sessions on FEDn."""

from __future__ import annotations

import contextlib
import secrets
import time
from dataclasses import dataclass

from fedn_partial.client.fedn_api.api import Api, ApiError
from fedn_partial.errors import FednPartialError
from fedn_partial.seed_model import fallback, server_functions
from fedn_partial.seed_model.case_checks import check_case
from fedn_partial.seed_model.server_state import check_server
from fedn_partial.settings.case import Case
from fedn_partial.settings.schema import parse
from fedn_partial.submodel.layers import Layer

START_TIMEOUT = 30  # seconds for FEDn to start a session


def start_session(api: Api, case: Case) -> tuple[str, list[Layer]]:
    """Start a session of `case` from FEDn's newest model; return its id and the model's layers.

    Raises
    ------
    FednPartialError : a check failed, see ``check_case`` and ``check_server``; no session was created.
    ApiError : FEDn failed to start the session, which is marked as terminated.
    """
    layers = check_case(case)
    model_id, digest = check_server(api, case, layers)
    settings = server_functions.session_settings(case, layers, secrets.token_hex(8), digest)
    session = api.post(
        "sessions/",
        json={
            "name": case.name,
            "seed_model_id": model_id,
            "session_config": {
                "aggregator": fallback.AGGREGATOR,
                "aggregator_kwargs": fallback.AGGREGATOR_KWARGS,
                "round_timeout": case.session.round_timeout,
                "rounds": case.session.rounds,
                "buffer_size": -1,
                "model_id": model_id,
                "delete_models_storage": True,
                "clients_required": case.session.min_clients,
                "validate": True,
                "helper_type": "numpyhelper",
                "server_functions": server_functions.source(settings),
            },
        },
    )
    session_id = session["session_id"]
    start = {"session_id": session_id, "rounds": case.session.rounds, "round_timeout": case.session.round_timeout}
    try:
        api.post("sessions/start", json=start)
        _wait_until_started(api, session_id)
    except BaseException:  # Ctrl-C too
        with contextlib.suppress(ApiError):
            api.patch(f"sessions/{session_id}", json={"status": "Terminated"})
        raise
    return session_id, layers


def _wait_until_started(api: Api, session_id: str) -> None:
    """Wait until FEDn has started a session; it skips the start silently if another session is starting.

    Raises
    ------
    ApiError : not started within ``START_TIMEOUT``.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while api.get(f"sessions/{session_id}")["status"] == "Created":
        if time.monotonic() > deadline:
            raise ApiError(
                f"FEDn has not started session {session_id} within {START_TIMEOUT} s: another session may have started "
                "at the same time, or the combiner does not respond; see the controller's log"
            )
        time.sleep(0.2)


@dataclass(frozen=True)
class StoredSession:
    """A session of fedn-partial stored in FEDn.

    Attributes
    ----------
    layers : {name: parameters}, from input to output. began : date in FEDn's format.
    """

    id: str
    case: Case
    layers: dict[str, int]
    began: str


def find_session(api: Api, name: str) -> StoredSession:
    """Return the newest session with the name or id `name`.

    Raises
    ------
    FednPartialError : no such session, or not started by fedn-partial. ApiError : FEDn does not respond.
    """
    matches = api.get("sessions/", params={"name": name}, limit=1, order="desc")["result"]
    session = matches[0] if matches and matches[0]["name"] == name else None
    if session is None:
        try:
            session = api.get(f"sessions/{name}")
        except ApiError:
            names = [other["name"] for other in api.get("sessions/", limit=20, order="desc")["result"]]
            newest = f"its newest are {', '.join(map(str, dict.fromkeys(names)))}" if names else "it has no sessions"
            raise FednPartialError(f"FEDn has no session called {name!r}; {newest}") from None
    config = session["session_config"]
    try:
        settings = server_functions.read_settings(config["server_functions"])
        session_part = {key: value for key, value in settings["client"].items() if key != "session_id"}
        case = parse(Case, {**session_part, "name": session["name"]}, f"session {name}")
    except (SyntaxError, ValueError, LookupError, TypeError, FednPartialError) as error:
        raise FednPartialError(
            f"session {name!r} was not started by this version of fedn-partial ({error!r})"
        ) from None
    return StoredSession(session["session_id"], case, settings["parameters"], str(session.get("committed_at")))
