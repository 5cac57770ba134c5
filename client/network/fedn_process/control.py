"""The key with which a network's controller proves to its combiner who it is."""

from __future__ import annotations

import hmac
import os

import grpc

VARIABLE = "FEDN_PARTIAL_CONTROL_KEY"  # of the environment of a network's processes
METADATA = "fedn-partial-control-key"


def is_key(key: str) -> bool:
    """Return whether `key` is that of this network."""
    return hmac.compare_digest(key.encode(), os.environ[VARIABLE].encode())


class SendKey(grpc.UnaryUnaryClientInterceptor):
    """Sends the key with each call of a channel."""

    def intercept_unary_unary(self, continuation, details, request):
        metadata = [*(details.metadata or ()), (METADATA, os.environ[VARIABLE])]
        return continuation(details._replace(metadata=metadata), request)
