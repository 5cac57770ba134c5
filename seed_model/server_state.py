"""Whether a FEDn server can start a session of a case now: checked before anything is created there."""

from __future__ import annotations

import tempfile
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

from fedn_partial import package_archive
from fedn_partial.errors import FednPartialError
from fedn_partial.layers import Layer
from fedn_partial.seed_model import seed
from fedn_partial.seed_model.api import Api, ApiError
from fedn_partial.settings import Case

PATIENCE = timedelta(seconds=120)  # beyond the timeout of a round, after which a session counts as dead


def check_server(api: Api, case: Case, layers: list[Layer], say=print) -> tuple[str, str]:
    """Return the id of the model that a session of `case` would start from, and its digest.

    Parameters
    ----------
    layers : of the case's model. say : called with a line about what is no obstacle.

    Raises
    ------
    FednPartialError : what is missing or in the way, by name, and what to do.
    """
    check_package(api)
    check_combiners(api)
    check_clients(api, case.session.min_clients)
    check_idle(api, say)
    model_id = seed.newest_model(api)
    with tempfile.TemporaryDirectory() as folder:
        return model_id, seed.check_seed(api, model_id, layers, Path(folder) / "model.npz")


def check_package(api: Api) -> None:
    """Raise FednPartialError unless FEDn's active compute package is one of fedn-partial."""
    way_out = "upload it with 'fedn-partial package build' and 'fedn-partial package upload'"
    if api.active_package() is None:
        raise FednPartialError(f"FEDn has no compute package yet; {way_out}")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "package.tgz"
        api.download_package(archive)
        try:
            ours = package_archive.unpack(archive, Path(folder) / "package").ours
        except package_archive.PackageError as error:
            raise FednPartialError(f"FEDn's active compute package cannot be run ({error}); {way_out}") from None
    if not ours:
        raise FednPartialError(f"FEDn's active compute package is not of fedn-partial; {way_out}")


def check_combiners(api: Api) -> None:
    """Raise FednPartialError unless FEDn has one combiner.

    FEDn 0.33 takes the unweighted mean of the combiners' models, whatever the number of clients of each.
    """
    names = [str(combiner["name"]) for combiner in api.get("combiners/")["result"]]
    if not names:
        raise FednPartialError("FEDn has no combiner; start one")
    if len(names) > 1:
        raise FednPartialError(
            f"FEDn has {len(names)} combiners ({', '.join(sorted(names))}), whose models it would average without "
            "regard to their clients. Stop all but one, and remove the others with DELETE /api/v1/combiners/ID"
        )


def check_clients(api: Api, wanted: int) -> None:
    """Raise FednPartialError unless as many clients as the session requires are online."""
    online = sorted(str(client["name"]) for client in api.get("clients/", params={"status": "online"})["result"])
    if len(online) < wanted:
        names = f": {', '.join(online)}" if online else ""
        raise FednPartialError(f"session: min_clients is {wanted}, but {len(online)} clients are online{names}")


def check_idle(api: Api, say=print) -> None:
    """Raise FednPartialError if a session is running: FEDn would start a second one beside it, and mix the two.

    FEDn leaves a session "Started" whose controller was killed. One whose newest round has not changed for longer than
    a round may take is dead.
    """
    for session in api.get("sessions/", limit=20, order="desc")["result"]:
        if session["status"] != "Started":
            continue
        rounds, changed = _progress(api, session)
        config = session["session_config"]
        now = _now(api)
        limit = timedelta(seconds=float(config["round_timeout"])) + PATIENCE
        name = f"session {session['name']!r} ({session['session_id']})"
        if None not in (now, changed) and now - changed > limit:
            say(f"{name} says 'Started', but nothing has changed in it since {changed:%Y-%m-%d %H:%M}: it is dead")
            continue
        raise FednPartialError(
            f"{name} is running, in round {rounds} of {config['rounds']}; wait for its end, or end it in FEDn"
        )


def _progress(api: Api, session: dict) -> tuple[int, datetime | None]:
    """Return how many rounds of a session FEDn has begun (at least 1), and when the newest one last changed."""
    rounds, skip = [], 0
    while True:  # FEDn cannot be asked for the rounds of one session
        page = api.get("rounds/", limit=4, order="desc", skip=skip)["result"]
        own = [r for r in page if (r.get("round_config") or {}).get("session_id") == session["session_id"]]
        rounds += own
        skip += len(page)
        if len(page) < 4 or (rounds and len(own) < len(page)):
            break
    newest = rounds[0] if rounds else session
    return max(len(rounds), 1), _date(newest.get("updated_at")) or _date(newest.get("committed_at"))


def _now(api: Api) -> datetime | None:
    """Return the time by the clock that FEDn dates its rows with: online clients send telemetry every 5 s."""
    newest = api.get("telemetry/", limit=1, order="desc")["result"]
    return _date(newest[0].get("committed_at")) if newest else None


def _date(text) -> datetime | None:
    try:
        return parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None


def release(api: Api, say=print) -> None:
    """Give FEDn's combiners FEDn's own server functions back, after a session has ended.

    FEDn 0.33 keeps a session's functions for the sessions after it that bring none. A combiner that cannot be reached
    is named; there the functions step aside by themselves.
    """
    import inspect

    import fedn.network.grpc.fedn_pb2 as messages
    import fedn.network.grpc.fedn_pb2_grpc as rpc
    import grpc
    from fedn.network.combiner.hooks.serverfunctionsbase import ServerFunctions

    request = messages.ControlRequest()
    request.parameter.add(key="server_functions", value=inspect.getsource(ServerFunctions))
    try:
        combiners = api.get("combiners/")["result"]
    except ApiError as error:
        say(f"FEDn keeps this session's server functions until the next session: {error}")
        return
    for combiner in combiners:
        if combiner.get("fqdn"):
            channel = grpc.secure_channel(f"{combiner['fqdn']}:443", grpc.ssl_channel_credentials())
        else:
            channel = grpc.insecure_channel(f"{combiner['address']}:{combiner['port']}")
        try:
            rpc.ControlStub(channel).SetServerFunctions(request, timeout=5)
        except grpc.RpcError as error:
            why = error.code().name
            say(f"combiner {combiner['name']} keeps this session's server functions until the next session ({why})")
        finally:
            channel.close()
