"""Corrections of FEDn's combiner: a client cannot write files, stop a round or replace the global model.

Sessions of fedn-partial are recognised by ``fallback.AGGREGATOR_KWARGS``; other sessions run as in FEDn.
"""

from __future__ import annotations

import grpc

from fedn_partial.client.network.fedn_process import control


def correct() -> None:
    """Patch FEDn's combiner; call this before it starts."""
    from fedn_partial.client.network.fedn_process import model_storage, rounds, updates  # import FEDn's combiner

    _guard_control()
    model_storage.correct()
    updates.correct()
    rounds.correct()


def _guard_control() -> None:
    """Accept rounds and server functions from this network's controller only; FEDn accepts them from any client."""
    from fedn.network.grpc import server
    from fedn.network.grpc.auth import JWTInterceptor, _unary_unary_rpc_terminator

    class Guard(JWTInterceptor):
        def intercept_service(self, continuation, call):
            key = dict(call.invocation_metadata).get(control.METADATA, "")
            if call.method.startswith("/fedn.Control/") and not control.is_key(key):
                return _unary_unary_rpc_terminator(grpc.StatusCode.PERMISSION_DENIED, "only the controller may")
            return super().intercept_service(continuation, call)

    server.JWTInterceptor = Guard
