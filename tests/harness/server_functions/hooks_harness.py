"""A FEDn round in one process: FEDn's own combiner code, hooks service and model storage, without sockets.

Faked are the transport, where messages still travel as bytes and an exception in the hooks comes out as gRPC's
error, and the clients: their uploads lie in FEDn's model storage from the start.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from io import BytesIO

import grpc
import numpy as np
from fedn.network.combiner.hooks.hooks import FunctionServiceServicer
from fedn.network.combiner.modelservice import ModelService, bytesIO_request_generator
from fedn.network.combiner.roundhandler import RoundHandler
from fedn.network.grpc import fedn_pb2

from fedn_partial.seed_model import fallback


@dataclass(frozen=True)
class Upload:
    """What FEDn's client sends after training: an npz file (None: a message about one that was never uploaded)
    and the metadata beside it.
    """

    client_id: str
    data: bytes | None
    metadata: dict


@dataclass(frozen=True)
class Round:
    """What FEDn makes of a round: what the clients were told, and the new global model, None if the round failed."""

    settings: dict
    model: list[np.ndarray] | None


class Combiner:
    """FEDn's RoundHandler for one session, and the hooks process that it calls.

    FEDN_MODEL_DIR must name an empty folder.
    """

    max_clients = 100

    def __init__(self, source: str):
        self.hooks = FunctionServiceServicer()
        self.models = ModelService()
        self.handler = RoundHandler(server=self, repository=None, modelservice=self.models)
        self.handler.hook_interface.channel.close()
        self.handler.hook_interface.stub = Stub(self)
        self.handler.set_aggregator(fallback.AGGREGATOR)  # what FEDn falls back to
        self.handler.set_server_functions(source)

    def stop_hooks(self) -> None:
        """Take the hooks process down."""
        self.hooks = None

    def restart_hooks(self) -> None:
        """Put a new hooks process in the place of the old one."""
        self.hooks = FunctionServiceServicer()

    def store(self, client_id: str, data: bytes, metadata: dict | None = None) -> None:
        """Send the hooks a model, after its metadata if given: a part of a round that was interrupted."""
        stub = self.handler.hook_interface.stub
        if metadata is not None:
            stub.HandleMetadata(fedn_pb2.ClientMetaRequest(metadata=json.dumps(metadata), client_id=client_id))
        stub.HandleStoreModel(bytesIO_request_generator(BytesIO(data), fedn_pb2.StoreModelRequest, {"id": client_id}))

    def provided_functions(self) -> dict[str, bool]:
        """Send the server functions, as FEDn does before every round; return which of them FEDn will call."""
        return dict(self.handler.hook_interface.provided_functions(self.handler.server_functions))

    def round(self, model: list[np.ndarray], uploads, during=lambda: None) -> Round:
        """Run RoundHandler's training round from `model`; `during` is called while the clients train."""
        model_id = self._store(npz(model))
        self._uploads, self._during = uploads, during
        config = {
            "session_id": "session",
            "model_id": model_id,
            "clients_required": 1,
            "round_timeout": 0,  # the updates are there at once, nothing to wait for
            "buffer_size": -1,
            "helper_type": "numpyhelper",
            "delete_models_storage": "True",
            "aggregator_kwargs": fallback.AGGREGATOR_KWARGS,
        }
        provided = self.provided_functions()
        clients = [upload.client_id for upload in uploads]
        if provided.get("client_selection") and clients:
            clients = self.handler.hook_interface.client_selection(clients=clients)
        new, _ = self.handler._training_round(config, clients, provided)
        return Round(config.get("client_settings", {}), new)

    def request_model_update(self, session_id, model_id, config, clients) -> None:
        """Answer RoundHandler, which asks for the updates here.

        They go to its queue as they are: its own check, that there is a num_examples, is not what the server
        functions may count on.
        """
        self._during()
        told = config.get("client_settings", {})
        for upload in self._uploads:
            metadata = upload.metadata
            if isinstance(metadata, dict) and "format" in metadata:  # as clients copy it from the settings
                metadata = {"session": told.get("session_id"), "round": told.get("round"), **metadata}
            self.handler.update_handler.model_updates.put(
                model_update(
                    upload.client_id, "never-uploaded" if upload.data is None else self._store(upload.data), metadata
                )
            )

    def _store(self, data: bytes) -> str:
        model_id = uuid.uuid4().hex
        self.models.set_model(BytesIO(data), model_id)
        return model_id


class Stub:
    """What gRPC makes of the hooks service on the combiner's side."""

    def __init__(self, combiner: Combiner):
        self.combiner = combiner

    def __getattr__(self, method):
        def call(request, timeout=None):
            if self.combiner.hooks is None:
                raise RpcError(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses")
            context = Context()
            streamed = method in ("HandleClientConfig", "HandleStoreModel")
            try:
                request = iter([over_the_wire(part) for part in request]) if streamed else over_the_wire(request)
                answer = getattr(self.combiner.hooks, method)(request, context)
                if method == "HandleAggregation":
                    answer = [over_the_wire(part) for part in answer]
            except Exception as error:
                raise RpcError(grpc.StatusCode.UNKNOWN, f"Exception calling application: {error}") from error
            if context.code is not None:
                raise RpcError(context.code, context.details)
            return iter(answer) if method == "HandleAggregation" else over_the_wire(answer)

        return call


class Context:
    """The context that gRPC hands to a service."""

    code = details = None

    def set_code(self, code):
        self.code = code

    def set_details(self, details):
        self.details = details


class RpcError(grpc.RpcError):
    """A failed call, as gRPC's client reports it."""

    def __init__(self, code, details):
        super().__init__(details)
        self.code = lambda: code
        self.details = lambda: details


def over_the_wire(message):
    """Return `message` after a journey as bytes."""
    return type(message).FromString(message.SerializeToString())


def model_update(client_id: str, model_update_id: str, training_metadata: dict) -> fedn_pb2.ModelUpdate:
    """Return FEDn's message that a client's update is in the model storage."""
    update = fedn_pb2.ModelUpdate(model_update_id=model_update_id)
    update.sender.client_id = client_id
    update.meta = json.dumps({"training_metadata": training_metadata, "config": json.dumps({"round_id": "1"})})
    return update


def npz(arrays) -> bytes:
    """Return arrays in numpyhelper's format."""
    file = BytesIO()
    np.savez(file, **{str(index): array for index, array in enumerate(arrays)})
    return file.getvalue()
