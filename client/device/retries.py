"""Retries of a device's calls to its combiner.

FEDn 0.33 doubles its pause at every failure less than 80 s after the last one, and has no longest one: a device whose
combiner was restarted six times in a few minutes, or was away for an hour, stays away as long again.
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
LONGEST_PAUSE = 30.0
ATTEMPTS = 5  # of a message that the round can do without
# FEDn's calls that are tried until they succeed, and those that are given up after some attempts (RetryException).
WITHOUT_END = (
    "send_heartbeats",
    "listen_to_task_stream",
    "get_model_from_combiner",
    "send_model_to_combiner",
    "send_model_update",
)
WITH_AN_END = ("send_status", "send_model_metric", "send_attributes", "send_telemetry")


def _retried(call: Callable, attempts: int | None) -> Callable:
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
                if not _may_pass(error):
                    raise
                if time.monotonic() - started > LONGEST_PAUSE:  # it worked for a while
                    failures, pause = 0, FIRST_PAUSE
                failures += 1
                if failures == attempts:
                    raise RetryException(f"{call.__name__}: {attempts} attempts failed") from None
                log(f"no answer from the combiner ({call.__name__}); trying again in {pause:.0f} s")
                if not _is(error, grpc.StatusCode.CANCELLED):
                    handler._reconnect()
                time.sleep(pause * random.uniform(0.9, 1.1))
                pause = min(2 * pause, LONGEST_PAUSE)

    return retry


def _is(error: Exception, status: grpc.StatusCode) -> bool:
    return isinstance(error, grpc.RpcError) and error.code() == status


def _may_pass(error: Exception) -> bool:
    """Return whether the next attempt may succeed: the combiner is away, or another thread has closed the channel."""
    if _is(error, grpc.StatusCode.UNKNOWN):
        return error.details() == "Stream removed"
    if isinstance(error, ValueError):
        return "closed channel" in str(error)
    return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class RetryingHandler(GrpcHandler):
    """FEDn's calls, with these retries in place of FEDn's own."""

    closed = False

    def close(self) -> None:
        """Disconnect for good; calls of other threads return None."""
        self.closed = True
        self._disconnect()


for _names, _attempts in ((WITHOUT_END, None), (WITH_AN_END, ATTEMPTS)):
    for _name in _names:
        setattr(RetryingHandler, _name, _retried(getattr(GrpcHandler, _name).__wrapped__, _attempts))
