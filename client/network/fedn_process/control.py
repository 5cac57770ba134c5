"""Authenticate a network's controller to its combiner with a key."""

from __future__ import annotations

import hmac
import os

import grpc

VARIABLE = "FEDN_PARTIAL_CONTROL_KEY"  # in the environment of the network's processes
METADATA = "fedn-partial-control-key"


def is_key(key: str) -> bool:
    """Return whether `key` is this network's key."""
    return hmac.compare_digest(key.encode(), os.environ[VARIABLE].encode())


class SendKey(grpc.UnaryUnaryClientInterceptor):
    """gRPC interceptor that sends the key with each call."""

    def intercept_unary_unary(self, continuation, details, request):
        metadata = [*(details.metadata or ()), (METADATA, os.environ[VARIABLE])]
        return continuation(details._replace(metadata=metadata), request)
