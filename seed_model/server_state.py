"""Checks whether a FEDn server can start a session of a case, before anything is created on it."""

from __future__ import annotations

import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from fedn_partial.client.fedn_api import package_archive
from fedn_partial.client.fedn_api.api import Api, ApiError, TokenError, read_date
from fedn_partial.errors import FednPartialError
from fedn_partial.exchange.server import GRACE
from fedn_partial.exchange.wire import plain
from fedn_partial.seed_model import custom_checks, package, seed
from fedn_partial.settings.case import Case
from fedn_partial.submodel.layers import Layer

MAX_STARTED = 20  # newest sessions checked
MAX_NAMES = 20  # listed in an error
PAGE = 4  # rounds per request: each contains the session's settings twice
MINUTE = timedelta(minutes=1)
CONTROL_TIMEOUT = 5  # seconds for a combiner to accept server functions


def check_server(api: Api, case: Case, layers: list[Layer], on_message=print) -> tuple[str, str]:
    """Return the id of the model that a session of `case` would start from, and its digest.

    Parameters
    ----------
    layers : of the case's model. on_message : called with each message that is not an error.

    Raises
    ------
    FednPartialError : the server is not ready; the message states the remedy.
    """
    check_package(api, case)
    check_combiners(api)
    check_clients(api, case.session.min_clients)
    check_idle(api, on_message)
    model_id = seed.newest_model(api)
    with tempfile.TemporaryDirectory() as folder:
        return model_id, seed.check_seed(api, model_id, layers, Path(folder) / "model.npz")


def check_package(api: Api, case: Case) -> None:
    """Raise FednPartialError unless FEDn's active compute package is of this version, with the case's modules."""
    remedy = "upload one with 'fedn-partial package build' and 'fedn-partial package upload'"
    response = api.response("packages/active")
    if response.status_code == 404:
        raise FednPartialError(f"FEDn has no compute package yet; {remedy}")
    name = api.get("packages/active")["name"]  # raises for other errors
    try:
        ours = _is_ours(api, case)
    except TokenError:  # only a client's token may download it
        ours = name == package.NAME
    except package_archive.PackageError as error:
        raise FednPartialError(f"FEDn's active compute package {name!r} cannot be run ({error}); {remedy}") from None
    if not ours:
        raise FednPartialError(f"FEDn's active compute package {name!r} is not of fedn-partial; {remedy}")


def _is_ours(api: Api, case: Case) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "package.tgz"
        api.download_package(archive)
        unpacked = package_archive.unpack(archive, Path(folder) / "package")
        if unpacked.ours:
            custom_checks.check_shipped(case, unpacked.folder)
            package.check_library(unpacked.folder)
        return unpacked.ours


def check_combiners(api: Api) -> None:
    """Raise FednPartialError unless FEDn has one combiner.

    FEDn 0.33 takes the unweighted mean of the combiners' models, regardless of their numbers of clients, and lists
    combiners that have ended.
    """
    combiners = api.get("combiners/")["result"]
    if not combiners:
        raise FednPartialError("FEDn has no combiner; start one on the server")
    if len(combiners) > 1:
        named = sorted(f"{combiner['name']}, id {combiner['combiner_id']}" for combiner in combiners)
        raise FednPartialError(
            f"FEDn has {len(combiners)} combiners ({'; '.join(named)}) and would average their models regardless of "
            "their numbers of clients. Stop all but one, and remove the others, including ended ones, with "
            f"DELETE {api.connection.base_url}/api/v1/combiners/ID"
        )


def check_clients(api: Api, required: int) -> None:
    """Raise FednPartialError unless `required` clients are online."""
    online = api.get("clients/", params={"status": "online"})["result"]
    if len(online) >= required:
        return
    names = sorted(plain(str(client["name"])) for client in online)
    if len(names) > MAX_NAMES:
        names[MAX_NAMES:] = [f"and {len(names) - MAX_NAMES} more"]
    raise FednPartialError(
        f"session: min_clients is {required}, but {len(online)} {'client is' if len(online) == 1 else 'clients are'} "
        f"online{': ' if names else ''}{', '.join(names)}. Start others with 'fedn-partial client start', or lower "
        "min_clients"
    )


def check_idle(api: Api, on_message=print) -> None:
    """Raise FednPartialError if a session is running, as FEDn may mix concurrent sessions.

    FEDn leaves a session "Started" whose controller was killed. It counts as dead if its newest round has not changed
    for the timeout of a round plus ``GRACE``.
    """
    for session in _started(api):
        rounds, changed = _progress(api, session)
        config, now = session["session_config"], _now(api)
        limit = timedelta(seconds=float(config["round_timeout"])) + timedelta(seconds=GRACE)
        name = f"session {session['name']!r} ({session['session_id']})"
        if None not in (now, changed) and now - changed > limit:
            on_message(
                f"{name} is 'Started', but has not changed for {(now - changed) // MINUTE:,} min, in round "
                f"{rounds} of {config['rounds']}: ignored as dead"
            )
            continue
        url = f"{api.connection.base_url}/api/v1/sessions/{session['session_id']}"
        raise FednPartialError(
            f"{name} is running, in round {rounds} of {config['rounds']}. Wait for its end, or end it with "
            f'PATCH {url} and {{"status": "Terminated"}}'
        )


def _started(api: Api) -> list[dict]:
    sessions = api.get("sessions/", params={"status": "Started"}, limit=MAX_STARTED, order="desc")["result"]
    return [session for session in sessions if session["status"] == "Started"]


def _progress(api: Api, session: dict) -> tuple[int, datetime | None]:
    """Return the number of begun rounds of a session, and when it or its newest round last changed."""
    began, changed = read_date(session.get("committed_at")), _changed(session)
    count, skip = 0, 0
    while True:  # FEDn cannot filter rounds by session
        page = api.get("rounds/", limit=PAGE, order="desc", skip=skip)["result"]
        for round_ in page:
            if (round_.get("round_config") or {}).get("session_id") == session["session_id"]:
                changed = _changed(round_) if count == 0 else changed
                count += 1
            elif began and (date := read_date(round_.get("committed_at"))) and date < began:
                return count, changed
        skip += len(page)
        if len(page) < PAGE:
            return count, changed


def _changed(row: dict) -> datetime | None:
    return read_date(row.get("updated_at")) or read_date(row.get("committed_at"))


def _now(api: Api) -> datetime | None:
    """Return the time by FEDn's clock, from the newest telemetry, which online clients send every 5 s; or None."""
    try:
        newest = api.get("telemetry/", limit=1, order="desc")["result"]
    except ApiError:
        return None
    return read_date(newest[0].get("committed_at")) if newest else None


def release(api: Api, on_message=print) -> None:
    """Restore FEDn's own server functions on its combiners after a session.

    FEDn 0.33 keeps a session's functions for later sessions without any. Combiners that cannot be reached are reported;
    there the functions average foreign models themselves. Does nothing if another session has started meanwhile.
    """
    try:
        if _started(api):
            return
        combiners = api.get("combiners/")["result"]
    except ApiError as error:
        on_message(f"FEDn keeps this session's server functions until the next session: {error}")
        return
    for combiner in combiners:
        if reason := _release(combiner):
            on_message(
                f"combiner {combiner['name']!r} keeps this session's server functions until the next session ({reason})"
            )


def _release(combiner: dict) -> str | None:
    """Set FEDn's own server functions on a combiner; return the reason of a failure, or None."""
    import inspect

    import fedn.network.grpc.fedn_pb2 as messages
    import fedn.network.grpc.fedn_pb2_grpc as rpc
    import grpc
    from fedn.network.combiner.hooks.serverfunctionsbase import ServerFunctions

    request = messages.ControlRequest()
    request.parameter.add(key="server_functions", value=inspect.getsource(ServerFunctions))
    if combiner.get("fqdn"):
        address = f"{combiner['fqdn']}:443"
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials())
    else:
        address = f"{combiner['address']}:{combiner['port']}"
        channel = grpc.insecure_channel(address)
    with channel:
        try:
            rpc.ControlStub(channel).SetServerFunctions(request, timeout=CONTROL_TIMEOUT)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.PERMISSION_DENIED:  # the local network restores them itself
                return None
            return f"{address}: {error.code().name}"
    return None
