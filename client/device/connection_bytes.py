"""Count the bytes sent through a gRPC channel."""

from __future__ import annotations

from collections import Counter

import grpc


class ByteCounter(grpc.UnaryUnaryClientInterceptor, grpc.StreamUnaryClientInterceptor):
    """gRPC interceptor that counts sent bytes.

    Attributes
    ----------
    sent : {method: bytes of the messages sent}, such as {"Upload": 1230000}.
    """

    def __init__(self):
        self.sent: Counter[str] = Counter()

    def intercept_unary_unary(self, continuation, call, request):
        self._count(call, request)
        return continuation(call, request)

    def intercept_stream_unary(self, continuation, call, requests):
        return continuation(call, self._count_each(call, requests))

    def _count_each(self, call, requests):
        for request in requests:
            self._count(call, request)
            yield request

    def _count(self, call, message) -> None:
        self.sent[call.method.rpartition("/")[2]] += message.ByteSize()
