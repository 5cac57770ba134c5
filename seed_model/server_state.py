"""Whether a FEDn server can start a session of a case now: checked before anything is created there."""

from __future__ import annotations

import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from fedn_partial.client.fedn_api import package_archive
from fedn_partial.client.fedn_api.api import Api, ApiError, TokenError, read_date
from fedn_partial.errors import FednPartialError
from fedn_partial.exchange.server import PATIENCE
from fedn_partial.exchange.wire import plain
from fedn_partial.seed_model import custom_checks, package, seed
from fedn_partial.settings.case import Case
from fedn_partial.submodel.layers import Layer

MOST_STARTED = 20  # sessions that are looked at, the newest
MOST_NAMES = 20  # that an error lists
PAGE = 4  # rounds that are asked for at once: each carries the session's settings twice
MINUTE = timedelta(minutes=1)
CONTROL_TIMEOUT = 5  # seconds that a combiner may take to accept server functions


def check_server(api: Api, case: Case, layers: list[Layer], say=print) -> tuple[str, str]:
    """Return the id of the model that a session of `case` would start from, and its digest.

    Parameters
    ----------
    layers : of the case's model. say : called with a line about what is no obstacle.

    Raises
    ------
    FednPartialError : what is missing or in the way, by name, and what to do.
    """
    check_package(api, case)
    check_combiners(api)
    check_clients(api, case.session.min_clients)
    check_idle(api, say)
    model_id = seed.newest_model(api)
    with tempfile.TemporaryDirectory() as folder:
        return model_id, seed.check_seed(api, model_id, layers, Path(folder) / "model.npz")


def check_package(api: Api, case: Case) -> None:
    """Raise FednPartialError unless FEDn's active compute package is one of fedn-partial, with the case's modules."""
    way_out = "upload one with 'fedn-partial package build' and 'fedn-partial package upload'"
    answer = api.response("packages/active")
    if answer.status_code == 404:
        raise FednPartialError(f"FEDn has no compute package yet; {way_out}")
    name = api.get("packages/active")["name"]  # which raises what another answer means
    try:
        ours = _is_ours(api, case)
    except TokenError:  # FEDn hands the file out to a client's token only
        ours = name == package.NAME
    except package_archive.PackageError as error:
        raise FednPartialError(f"FEDn's active compute package {name!r} cannot be run ({error}); {way_out}") from None
    if not ours:
        raise FednPartialError(f"FEDn's active compute package {name!r} is not of fedn-partial; {way_out}")


def _is_ours(api: Api, case: Case) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "package.tgz"
        api.download_package(archive)
        package = package_archive.unpack(archive, Path(folder) / "package")
        if package.ours:
            custom_checks.check_shipped(case, package.folder)
        return package.ours


def check_combiners(api: Api) -> None:
    """Raise FednPartialError unless FEDn has one combiner.

    FEDn 0.33 takes the unweighted mean of the combiners' models, whatever the number of clients of each. It keeps a
    combiner that has ended.
    """
    combiners = api.get("combiners/")["result"]
    if not combiners:
        raise FednPartialError("FEDn has no combiner; whoever runs the server must start one")
    if len(combiners) > 1:
        named = sorted(f"{combiner['name']}, id {combiner['combiner_id']}" for combiner in combiners)
        raise FednPartialError(
            f"FEDn has {len(combiners)} combiners ({'; '.join(named)}), whose models it would average without regard "
            "to their clients. Stop all but one, and remove each of the others, dead ones too, with "
            f"DELETE {api.connection.base_url}/api/v1/combiners/ID"
        )


def check_clients(api: Api, wanted: int) -> None:
    """Raise FednPartialError unless as many clients as the session requires are online."""
    online = api.get("clients/", params={"status": "online"})["result"]
    if len(online) >= wanted:
        return
    names = sorted(plain(str(client["name"])) for client in online)
    if len(names) > MOST_NAMES:
        names[MOST_NAMES:] = [f"and {len(names) - MOST_NAMES} more"]
    raise FednPartialError(
        f"session: min_clients is {wanted}, but {len(online)} {'client is' if len(online) == 1 else 'clients are'} "
        f"online{': ' if names else ''}{', '.join(names)}. Start others with 'fedn-partial client start', or lower "
        "min_clients"
    )


def check_idle(api: Api, say=print) -> None:
    """Raise FednPartialError if a session is running: FEDn may start a second one beside it, and mix the two.

    FEDn leaves a session "Started" whose controller was killed. One whose newest round has not changed for longer than
    a round may take is dead.
    """
    for session in _started(api):
        rounds, changed = _progress(api, session)
        config, now = session["session_config"], _now(api)
        limit = timedelta(seconds=float(config["round_timeout"])) + timedelta(seconds=PATIENCE)
        name = f"session {session['name']!r} ({session['session_id']})"
        if None not in (now, changed) and now - changed > limit:
            say(
                f"{name} is 'Started', but nothing has changed in it for {(now - changed) // MINUTE:,} min, in round "
                f"{rounds} of {config['rounds']}: it is dead"
            )
            continue
        url = f"{api.connection.base_url}/api/v1/sessions/{session['session_id']}"
        raise FednPartialError(
            f"{name} is running, in round {rounds} of {config['rounds']}. Wait for its end, or end it with "
            f'PATCH {url} and {{"status": "Terminated"}}'
        )


def _started(api: Api) -> list[dict]:
    found = api.get("sessions/", params={"status": "Started"}, limit=MOST_STARTED, order="desc")["result"]
    return [session for session in found if session["status"] == "Started"]


def _progress(api: Api, session: dict) -> tuple[int, datetime | None]:
    """Return how many rounds of a session FEDn has begun, and when the session or its newest round last changed."""
    began, changed = read_date(session.get("committed_at")), _changed(session)
    count, skip = 0, 0
    while True:  # FEDn cannot be asked for the rounds of one session
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
    """Return the time by the clock that FEDn dates its rows with, None if it does not tell.

    Online clients send telemetry every 5 s.
    """
    try:
        newest = api.get("telemetry/", limit=1, order="desc")["result"]
    except ApiError:
        return None
    return read_date(newest[0].get("committed_at")) if newest else None


def release(api: Api, say=print) -> None:
    """Give FEDn's combiners FEDn's own server functions back, after a session has ended.

    FEDn 0.33 keeps a session's functions for the sessions after it that bring none. A combiner that cannot be reached
    is named; there the functions step aside by themselves. Nothing is done if another session has started meanwhile:
    the functions are then its own.
    """
    try:
        if _started(api):
            return
        combiners = api.get("combiners/")["result"]
    except ApiError as error:
        say(f"FEDn keeps this session's server functions until the next session: {error}")
        return
    for combiner in combiners:
        if why := _release(combiner):
            say(f"combiner {combiner['name']!r} keeps this session's server functions until the next session ({why})")


def _release(combiner: dict) -> str | None:
    """Return why a combiner did not take FEDn's own server functions, or None if it did."""
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
            if error.code() == grpc.StatusCode.PERMISSION_DENIED:  # of 'network up', which does that by itself
                return None
            return f"{address} answers {error.code().name}"
    return None
