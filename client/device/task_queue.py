"""The combiner's requests to this device, read while an earlier one is carried out.

FEDn's client reads the next request when it is done with the last one, so a device that trains for longer than its
round keeps training for nobody, and then works through the rounds that it missed. FEDn sends no message that a round is
over; the next request says it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from enum import Enum

import fedn.network.grpc.fedn_pb2 as messages

TRAINING = messages.StatusType.MODEL_UPDATE
# FEDn asks for both after the updates of a round are merged, or given up.
ENDS_A_ROUND = (TRAINING, messages.StatusType.MODEL_VALIDATION)


class RoundEnd(Enum):
    """Why the round of a training request is over before its update was sent."""

    NEWER_REQUEST = "the combiner has sent a newer request"
    SESSION_OVER = "its session was terminated"


class RoundOver(Exception):
    """Raised to leave a training request without an answer: its round is over, and a newer request waits."""


class TaskQueue:
    """Requests in the order in which they arrived, without training requests of rounds that are over.

    Attributes
    ----------
    current : the request that is carried out, or None.
    round_end : why the round of `current`, a training request, is over; None as long as it is not.
    """

    def __init__(self, on_round_end=lambda: None):
        """`on_round_end` : called when the round of the current training request ends, by the thread that says so."""
        self.current = None
        self.round_end: RoundEnd | None = None
        self._on_round_end = on_round_end
        self._waiting = deque()
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def put(self, request) -> None:
        """Add a request, and drop the training requests before it that it shows to be late."""
        with self._changed:
            if request.type in ENDS_A_ROUND:
                self._waiting = deque(waiting for waiting in self._waiting if waiting.type != TRAINING)
            self._waiting.append(request)
            self._changed.notify()
        if request.type in ENDS_A_ROUND:
            self.end_round(RoundEnd.NEWER_REQUEST)

    def end_round(self, reason: RoundEnd) -> None:
        """End the training request that is carried out, if it is one."""
        with self._changed:
            if self.current is None or self.current.type != TRAINING:
                return
            ended, self.round_end = self.round_end, reason
        if ended is None:
            self._on_round_end()

    def fail(self, error: BaseException) -> None:
        """Let the iteration raise `error` once the requests that have arrived are carried out."""
        with self._changed:
            self._error = error
            self._changed.notify()

    def __iter__(self) -> Iterator:
        while True:
            with self._changed:
                self.current, self.round_end = None, None
                self._changed.wait_for(lambda: self._waiting or self._error)
                if not self._waiting:
                    raise self._error
                request = self.current = self._waiting.popleft()
            yield request
