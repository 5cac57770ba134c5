"""Retry a device's calls to its combiner, with pauses of bounded length.

FEDn 0.33 doubles the pause at each failure within 80 s of the last one, without a bound: after an outage of an hour a
device stays away for up to another hour.
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable

import grpc
from fedn.network.clients.grpc_handler import GrpcHandler, RetryException

from fedn_partial.log import log

FIRST_PAUSE = 5.0  # seconds
MAX_PAUSE = 30.0
ATTEMPTS = 5  # for calls that a round does not depend on
# Calls that are retried until they succeed, and calls that raise RetryException after ATTEMPTS.
UNLIMITED = (
    "send_heartbeats",
    "listen_to_task_stream",
    "get_model_from_combiner",
    "send_model_to_combiner",
    "send_model_update",
)
LIMITED = ("send_status", "send_model_metric", "send_attributes", "send_telemetry")


def _retried(call: Callable, attempts: int | None) -> Callable:
    # By hand: tenacity does not shorten the pause again after a call that worked for a while.
    @functools.wraps(call)
    def retry(handler, *args, **kwargs):
        failures, pause = 0, FIRST_PAUSE
        while True:
            started = time.monotonic()
            try:
                return call(handler, *args, **kwargs)
            except (grpc.RpcError, ValueError) as error:
                if handler.closed:
                    return None
                if not _is_transient(error):
                    raise
                if time.monotonic() - started > MAX_PAUSE:  # the connection had worked
                    failures, pause = 0, FIRST_PAUSE
                failures += 1
                if failures == attempts:
                    raise RetryException(f"{call.__name__}: {attempts} attempts failed") from None
                log(f"no answer from the combiner ({call.__name__}); trying again in {pause:.0f} s")
                if not _is(error, grpc.StatusCode.CANCELLED):
                    handler._reconnect()
                time.sleep(pause * random.uniform(0.9, 1.1))
                pause = min(2 * pause, MAX_PAUSE)

    return retry


def _is(error: Exception, status: grpc.StatusCode) -> bool:
    return isinstance(error, grpc.RpcError) and error.code() == status


def _is_transient(error: Exception) -> bool:
    """Return whether a retry may succeed: the combiner is away, or another thread has closed the channel."""
    if _is(error, grpc.StatusCode.UNKNOWN):
        return error.details() == "Stream removed"
    if isinstance(error, ValueError):
        return "closed channel" in str(error)
    return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class RetryingHandler(GrpcHandler):
    """FEDn's calls with these retries instead of FEDn's own."""

    closed = False

    def close(self) -> None:
        """Disconnect for good; calls of other threads return None."""
        self.closed = True
        self._disconnect()


for _names, _attempts in ((UNLIMITED, None), (LIMITED, ATTEMPTS)):
    for _name in _names:
        setattr(RetryingHandler, _name, _retried(getattr(GrpcHandler, _name).__wrapped__, _attempts))
