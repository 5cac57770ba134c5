"""Queue of the combiner's requests to this device, filled while an earlier request is processed.

FEDn's client reads a request after it has completed the last one. A device that trains for longer than its round would
continue a training whose result is discarded, and then process the rounds that it missed. FEDn does not send a message
at the end of a round; the next request implies it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from enum import Enum

import fedn.network.grpc.fedn_pb2 as messages

TRAINING = messages.StatusType.MODEL_UPDATE
# Requests that FEDn sends after the updates of a round are merged or the round has failed.
ENDS_ROUND = (TRAINING, messages.StatusType.MODEL_VALIDATION)


class RoundEnd(Enum):
    """Reason why the round of a training request ended before its update was sent."""

    NEWER_REQUEST = "the combiner has sent a newer request"
    SESSION_OVER = "its session was terminated"


class RoundOver(Exception):
    """Raised to drop a training request without an answer, as its round has ended and a newer request is queued."""


class TaskQueue:
    """Requests in order of arrival, without training requests of ended rounds.

    Attributes
    ----------
    current : request that is processed, or None.
    round_end : reason why the round of the training request `current` has ended, or None.
    """

    def __init__(self, on_round_end=lambda: None):
        """`on_round_end` : called when the round of the current training request ends, in the reading thread."""
        self.current = None
        self.round_end: RoundEnd | None = None
        self._on_round_end = on_round_end
        self._waiting = deque()
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def put(self, request) -> None:
        """Add a request, and drop queued training requests whose round it ends."""
        with self._changed:
            if request.type in ENDS_ROUND:
                self._waiting = deque(waiting for waiting in self._waiting if waiting.type != TRAINING)
            self._waiting.append(request)
            self._changed.notify()
        if request.type in ENDS_ROUND:
            self.end_round(RoundEnd.NEWER_REQUEST)

    def end_round(self, reason: RoundEnd) -> None:
        """Set `round_end` if the current request is a training request."""
        with self._changed:
            if self.current is None or self.current.type != TRAINING:
                return
            ended, self.round_end = self.round_end, reason
        if ended is None:
            self._on_round_end()

    def fail(self, error: BaseException) -> None:
        """Raise `error` from the iteration after the queued requests are processed."""
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
