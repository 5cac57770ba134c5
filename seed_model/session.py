"""A session on FEDn with our server functions."""

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

START_TIMEOUT = 30  # seconds that FEDn may take to start a session


def start_session(api: Api, case: Case) -> tuple[str, list[Layer]]:
    """Start a session of `case` from FEDn's newest model and return its id and the model's layers.

    Raises
    ------
    FednPartialError : something is missing or in the way, see ``check_case`` and ``check_server``; nothing was
    created. ApiError : FEDn refuses; the session that was created is marked as terminated.
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
    """Wait until FEDn has started a session: it answers before that, and leaves it where another one was faster.

    Raises
    ------
    ApiError : it has not been started in time.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while api.get(f"sessions/{session_id}")["status"] == "Created":
        if time.monotonic() > deadline:
            raise ApiError(
                f"FEDn has not started session {session_id} within {START_TIMEOUT} s: another one may have been "
                "started at the same moment, or its combiner does not answer; the controller's log says more"
            )
        time.sleep(0.2)


@dataclass(frozen=True)
class Known:
    """What FEDn keeps of a session of ours.

    Attributes
    ----------
    layers : {name: parameters}, from input to output. began : when, as FEDn writes it.
    """

    id: str
    case: Case
    layers: dict[str, int]
    began: str


def find_session(api: Api, name: str) -> Known:
    """Return the session that is called `name`, or has that id; of several with one name, the newest.

    Raises
    ------
    FednPartialError : there is none, or it was not started by fedn-partial. ApiError : FEDn does not answer.
    """
    found = api.get("sessions/", params={"name": name}, limit=1, order="desc")["result"]
    session = found[0] if found and found[0]["name"] == name else None
    if session is None:
        try:
            session = api.get(f"sessions/{name}")
        except ApiError:
            names = [other["name"] for other in api.get("sessions/", limit=20, order="desc")["result"]]
            known = f"its newest are {', '.join(map(str, dict.fromkeys(names)))}" if names else "it has none at all"
            raise FednPartialError(f"FEDn has no session called {name!r}; {known}") from None
    config = session["session_config"]
    try:
        settings = server_functions.read_settings(config["server_functions"])
        session_part = {key: value for key, value in settings["client"].items() if key != "session_id"}
        case = parse(Case, {**session_part, "name": session["name"]}, f"session {name}")
    except (SyntaxError, ValueError, LookupError, TypeError, FednPartialError) as error:
        raise FednPartialError(
            f"session {name!r} was not started by this version of fedn-partial ({error!r})"
        ) from None
    return Known(session["session_id"], case, settings["parameters"], str(session.get("committed_at")))
