"""Corrections of FEDn's controller: an error fails the round, and the session continues with the next one.

In FEDn 0.33 an error in a round ends the session's thread, and the session's status stays "Started" forever.
"""

from __future__ import annotations

import functools
import threading

from fedn_partial.client.fleet.waiting import wait_until
from fedn_partial.client.network.fedn_process import control

STARTING = threading.Lock()  # FEDn checks for a running session and starts one in two steps


def correct() -> None:
    """Patch FEDn's controller; call this before it starts."""
    from fedn.common.log_config import logger
    from fedn.network.controller.control import Control

    def handle_unavailable_combiner(controller, combiner):
        logger.warning(f"fedn-partial: combiner {combiner.name} does not answer")

    # FEDn calls this method but does not define it.
    Control._handle_unavailable_combiner = handle_unavailable_combiner
    Control.round = _fail_on_error(Control.round)
    Control.start_session = _end_session(Control.start_session)
    _send_control_key()
    _end_interrupted_sessions()


def _send_control_key() -> None:
    """Send the network's key with every call to the combiner, which refuses other callers."""
    import grpc
    from fedn.network.combiner import interfaces

    class Channel(interfaces.Channel):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.channel = grpc.intercept_channel(self.channel, control.SendKey())

    interfaces.Channel = Channel


def _fail_on_error(run_round):
    """Wrap ``Control.round``: wait until enough clients are connected, and turn an error into a failed round."""
    from fedn.common.log_config import logger

    @functools.wraps(run_round)
    def wrapped(controller, session_config, round_id, session_id, *args, **kwargs):
        try:
            _wait_for_clients(controller, session_config, session_id)
            return run_round(controller, session_config, round_id, session_id, *args, **kwargs)
        except Exception:
            logger.exception(f"fedn-partial: round {round_id} failed")
        if controller.db.round_store.get(round_id) is None:
            controller.create_round({"round_id": round_id, "status": "Pending"})
        controller.set_round_status(round_id, "Failed")
        return None, controller.db.round_store.get(round_id)

    return wrapped


def _wait_for_clients(controller, session_config, session_id: str) -> None:
    """Wait until a combiner has the clients that the session requires, for at most the timeout of a round.

    After a restart of the combiner its clients need time to reconnect; FEDn would fail all remaining rounds at once.
    """
    requirements = {"clients_required": session_config.clients_required}

    def is_ready() -> bool:
        terminated = controller.get_session_status(session_id) == "Terminated"
        return terminated or bool(controller.get_participating_combiners(requirements))

    wait_until(is_ready, float(session_config.round_timeout), pause=1)


def _end_session(start_session):
    """Wrap ``Control.start_session``: an error ends the session, and the controller can start another one."""
    from fedn.common.log_config import logger
    from fedn.network.state import ReducerState

    @functools.wraps(start_session)
    def wrapped(controller, session_id, *args, **kwargs):
        with STARTING:
            if controller.get_state() != ReducerState.idle:
                logger.warning(f"fedn-partial: session {session_id} is not started: another session is running")
                return
            controller._state = ReducerState.monitoring
        try:
            start_session(controller, session_id, *args, **kwargs)
        except Exception:
            logger.exception(f"fedn-partial: session {session_id} ended with an error")
            controller.set_session_status(session_id, "Terminated")
        finally:
            controller._state = ReducerState.idle

    return wrapped


def _end_interrupted_sessions() -> None:
    """Mark sessions that a killed controller left running as terminated, as their threads are gone."""
    import sqlalchemy as sa
    from fedn.common.config import get_statestore_config
    from fedn.network.storage.statestore.stores.sql.shared import RoundModel, SessionModel

    engine = sa.create_engine(f"sqlite:///{get_statestore_config()['sqlite_config']['dbname']}")
    sessions, rounds = SessionModel.__table__, RoundModel.__table__
    with engine.begin() as connection:
        connection.execute(sa.update(sessions).where(sessions.c.status == "Started").values(status="Terminated"))
        connection.execute(
            sa.update(rounds).where(rounds.c.status.in_(("Pending", "Success"))).values(status="Terminated")
        )
    engine.dispose()
