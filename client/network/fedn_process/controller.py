"""FEDn's controller, corrected: a round that cannot be run fails, and the session goes on with the next one.

In FEDn 0.33 an error in a round ends the session's thread, and the session says "Started" for ever.
"""

from __future__ import annotations

import functools
import threading
import time

from fedn_partial.client.network.fedn_process import control

STARTING = threading.Lock()  # FEDn looks whether a session runs and starts one in two steps


def correct() -> None:
    """Correct FEDn's controller, before it is started."""
    from fedn.common.log_config import logger
    from fedn.network.controller.control import Control

    def handle_unavailable_combiner(controller, combiner):
        logger.warning(f"fedn-partial: combiner {combiner.name} does not answer")

    # FEDn calls this method and defines it nowhere.
    Control._handle_unavailable_combiner = handle_unavailable_combiner
    Control.round = _failing_safely(Control.round)
    Control.start_session = _ending_always(Control.start_session)
    _send_control_key()
    _end_interrupted_sessions()


def _send_control_key() -> None:
    """Send the network's key with every call to the combiner, which takes orders from nobody else."""
    import grpc
    from fedn.network.combiner import interfaces

    class Channel(interfaces.Channel):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.channel = grpc.intercept_channel(self.channel, control.SendKey())

    interfaces.Channel = Channel


def _failing_safely(play_round):
    """Wrap ``Control.round``: wait until enough clients are connected, and turn an error into a failed round."""
    from fedn.common.log_config import logger

    @functools.wraps(play_round)
    def wrapped(controller, session_config, round_id, session_id, *args, **kwargs):
        try:
            _wait_for_clients(controller, session_config, session_id)
            return play_round(controller, session_config, round_id, session_id, *args, **kwargs)
        except Exception:
            logger.exception(f"fedn-partial: round {round_id} failed")
        if controller.db.round_store.get(round_id) is None:
            controller.create_round({"round_id": round_id, "status": "Pending"})
        controller.set_round_status(round_id, "Failed")
        return None, controller.db.round_store.get(round_id)

    return wrapped


def _wait_for_clients(controller, session_config, session_id: str) -> None:
    """Wait until a combiner has the clients that the session requires, for at most the timeout of a round.

    After a restart of the combiner its clients take a while to connect again. FEDn fails a round at once, and with it
    all that are left.
    """
    wanted = {"clients_required": session_config.clients_required}
    deadline = time.monotonic() + float(session_config.round_timeout)
    while time.monotonic() < deadline and controller.get_session_status(session_id) != "Terminated":
        if controller.get_participating_combiners(wanted):
            return
        time.sleep(1)


def _ending_always(start_session):
    """Wrap ``Control.start_session``: whatever happens, the session ends and the controller takes another one."""
    from fedn.common.log_config import logger
    from fedn.network.state import ReducerState

    @functools.wraps(start_session)
    def wrapped(controller, session_id, *args, **kwargs):
        with STARTING:
            if controller.get_state() != ReducerState.idle:
                logger.warning(f"fedn-partial: session {session_id} is not started: another one is running")
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
    """Mark sessions that a killed controller left running as terminated: their thread is gone."""
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
