"""Corrections of FEDn's hooks process: a client's model is checked before it is loaded.

FEDn loads models unchecked, and an npz file of 3 MB can inflate to 3 GB.
"""

from __future__ import annotations

import os
import tempfile

from fedn_partial.errors import ModelError
from fedn_partial.exchange.npz import check_npz

GLOBAL_MODEL = "global_model"  # FEDn's id of the global model of a round
SLACK = 1_000_000  # bytes for archive headers, beyond twice the global model


def correct() -> None:
    """Patch FEDn's hooks process; call this before it starts."""
    import fedn.network.grpc.fedn_pb2 as messages
    from fedn.network.combiner.hooks.grpc_wrappers import safe_unary
    from fedn.network.combiner.hooks.hooks import FunctionServiceServicer

    receive_metadata = FunctionServiceServicer.HandleMetadata

    def handle_metadata(servicer, request, context):
        servicer.client_updates.pop(request.client_id, None)  # left by an update whose model never arrived
        return receive_metadata(servicer, request, context)

    def handle_model(servicer, requests, context):
        client_id, model, problem = _receive(servicer, requests)
        if problem is not None:
            _skip(servicer, client_id, problem)
            return messages.StoreModelResponse(status=f"refused: {problem}")
        if client_id == GLOBAL_MODEL:
            servicer.previous_global = model
        else:
            servicer.client_updates[client_id] = [model, *servicer.client_updates.get(client_id, [])]
        servicer.check_incremental_aggregate(client_id)
        return messages.StoreModelResponse(status=f"received model of {client_id}")

    FunctionServiceServicer.HandleMetadata = handle_metadata
    FunctionServiceServicer.HandleStoreModel = safe_unary(
        "store_model", lambda: messages.StoreModelResponse(status="ERROR")
    )(handle_model)


def _receive(servicer, requests) -> tuple[str, list | None, str | None]:
    """Receive a model; return the sender's id, the model, and the reason if the model is refused, else None."""
    handle, path = tempfile.mkstemp()
    try:
        client_id, problem, limit, size = None, None, None, 0
        with os.fdopen(handle, "wb") as file:
            for request in requests:
                if client_id is None:
                    client_id = request.id
                    limit = None if client_id == GLOBAL_MODEL else _limit(servicer)
                size += len(request.data)
                if limit is not None and size > limit:
                    problem = f"its model is larger than {limit:,} bytes"
                elif problem is None:
                    file.write(request.data)
        if problem is None and client_id != GLOBAL_MODEL:
            try:
                check_npz(path, limit, stored_only=_is_ours(servicer))
            except ModelError as error:
                problem = f"its model {error}"
        try:
            return client_id, None if problem else servicer.helper.load(path), problem
        except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
            return client_id, None, f"its model cannot be read: {error}"
    finally:
        os.unlink(path)


def _limit(servicer) -> int:
    """Return the largest size of an update in bytes: twice the global model, which may be float16, plus headers."""
    return 2 * sum(array.nbytes for array in servicer.previous_global) + SLACK


def _is_ours(servicer) -> bool:
    """Return whether the updates are fedn-partial's, which are not compressed."""
    functions = servicer.server_functions
    return hasattr(functions, "skip") and not functions.foreign


def _skip(servicer, client_id: str, problem: str) -> None:
    """Remove an update; fedn-partial's server functions report it with the client's name."""
    from fedn.common.log_config import logger

    update = servicer.client_updates.pop(client_id, [])
    if hasattr(servicer.server_functions, "skip"):
        servicer.server_functions.skip(client_id, update[0] if update else None, problem)
    else:
        logger.warning(f"fedn-partial: skipped the update of {client_id}: {problem}")
