"""Counts the bytes that leave through a gRPC channel, where they leave."""

from __future__ import annotations

from collections import Counter

import grpc


class ByteCounter(grpc.UnaryUnaryClientInterceptor, grpc.StreamUnaryClientInterceptor):
    """A gRPC interceptor.

    Attributes
    ----------
    sent : {method: bytes of the messages sent}, such as {"Upload": 1230000}; a method by its last name.
    """

    def __init__(self):
        self.sent: Counter[str] = Counter()

    def intercept_unary_unary(self, continuation, call, request):
        self._count(call, request)
        return continuation(call, request)

    def intercept_stream_unary(self, continuation, call, requests):
        return continuation(call, self._counted(call, requests))

    def _counted(self, call, requests):
        for request in requests:
            self._count(call, request)
            yield request

    def _count(self, call, message) -> None:
        self.sent[call.method.rpartition("/")[2]] += message.ByteSize()
