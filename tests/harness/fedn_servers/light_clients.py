"""FEDn clients without TensorFlow: threads of the test's process that speak REST and gRPC as FEDn's client does.

Each message can be sent with any values, at any time and in any order. ``take_part`` is the honest client:

    client = LightClient(network.url, "light-1", on_request=take_part)
    client.connect()
"""

from __future__ import annotations

import io
import json
import queue
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import grpc
import numpy as np
import requests
from fedn.network.combiner.modelservice import upload_request_generator
from fedn.network.grpc import fedn_pb2, fedn_pb2_grpc
from google.protobuf.json_format import MessageToJson

from fedn_partial.exchange import encoding, wire

OUTPUT_LAYERS = {"vgg16": "dense", "lstm_har": "output", "text_cnn": "output"}
HEARTBEAT = 2.0  # seconds between two, as FEDn's client


# numpy parses a header with ast.literal_eval, which fails in Python 3.11 when many threads call it at once.
LOADING = threading.Lock()


class LightClient:
    """One client of the FEDn controller at `api_url`.

    Parameters
    ----------
    client_id : FEDn's id of it; made up if it is not given.
    on_request : called in a thread of its own with this client and each fedn_pb2.TaskRequest. Without it, requests
        wait in `requests`.

    Attributes
    ----------
    errors : what `on_request` raised.
    """

    def __init__(
        self,
        api_url: str,
        name: str,
        client_id: str | None = None,
        on_request: Callable[[LightClient, fedn_pb2.TaskRequest], None] | None = None,
    ):
        self.api_url, self.name = api_url, name
        self.client_id = client_id or str(uuid.uuid4())
        self.on_request = on_request
        self.requests: queue.Queue[fedn_pb2.TaskRequest] = queue.Queue()
        self.errors: list[Exception] = []
        self._stopped = threading.Event()

    def register(self) -> dict:
        """Add this client to FEDn's clients; return what the controller answers: which combiner to go to."""
        client = {"name": self.name, "client_id": self.client_id, "preferred_combiner": None, "package": "local"}
        answer = requests.post(f"{self.api_url}/api/v1/clients/add", json=client, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def connect(self) -> None:
        """Register, send a heartbeat, and listen for requests; heartbeats and requests go on in threads."""
        combiner = self.register()
        self.metadata = [("client", self.client_id), ("grpc-server", combiner["host"])]
        self.channel = grpc.insecure_channel(f"{combiner['host']}:{combiner['port']}")
        self.connector = fedn_pb2_grpc.ConnectorStub(self.channel)
        self.combiner = fedn_pb2_grpc.CombinerStub(self.channel)
        self.models = fedn_pb2_grpc.ModelServiceStub(self.channel)
        self._stopped.clear()
        self.heartbeat()
        for loop in (self._listen, self._send_heartbeats):
            threading.Thread(target=loop, daemon=True).start()

    def disconnect(self) -> None:
        """Go away without a word: FEDn counts the client as online for 10 seconds more."""
        self._stopped.set()
        self.channel.close()

    def sender(self) -> fedn_pb2.Client:
        """Return this client as the sender of a message."""
        return fedn_pb2.Client(name=self.name, role=fedn_pb2.CLIENT, client_id=self.client_id)

    def heartbeat(self) -> None:
        """Tell the combiner that this client is there."""
        self.connector.SendHeartbeat(fedn_pb2.Heartbeat(sender=self.sender()), metadata=self.metadata)

    def _send_heartbeats(self) -> None:
        while not self._stopped.wait(HEARTBEAT):
            try:
                self.heartbeat()
            except (grpc.RpcError, ValueError):  # ValueError: the channel is closed
                continue

    def _listen(self) -> None:
        while not self._stopped.is_set():
            try:
                message = fedn_pb2.ClientAvailableMessage(sender=self.sender())
                for request in self.combiner.TaskStream(message, metadata=self.metadata):
                    if self.on_request is None:
                        self.requests.put(request)
                    else:
                        threading.Thread(target=self._answer, args=(request,), daemon=True).start()
            except (grpc.RpcError, ValueError):
                self._stopped.wait(1)

    def _answer(self, request: fedn_pb2.TaskRequest) -> None:
        try:
            self.on_request(self, request)
        except Exception as error:
            if not self._stopped.is_set():
                self.errors.append(error)

    def download(self, model_id: str, timeout: float = 60) -> bytes | None:
        """Return the file of a model, or None if the combiner has none with this id."""
        request = fedn_pb2.ModelRequest(id=model_id, sender=self.sender())
        chunks = []
        deadline = time.monotonic() + timeout
        for part in self.models.Download(request, metadata=self.metadata):
            if part.status == fedn_pb2.ModelStatus.IN_PROGRESS:
                chunks.append(part.data)
            elif part.status == fedn_pb2.ModelStatus.OK:
                break
            elif part.status == fedn_pb2.ModelStatus.FAILED or time.monotonic() > deadline:
                return None
        return b"".join(chunks) or None

    def upload(self, data: bytes, model_update_id: str) -> None:
        """Store `data` in the combiner under `model_update_id`."""
        self.models.Upload(upload_request_generator(io.BytesIO(data), model_update_id), metadata=self.metadata)

    def update_message(
        self, model_id: str, model_update_id: str, training_metadata, config: str, **meta
    ) -> fedn_pb2.ModelUpdate:
        """Return the message of an update as FEDn's client makes it.

        Parameters
        ----------
        config : the round's, as JSON: see ``round_of``, or `request.data`. meta : other keys of the message's metadata.
        """
        meta = {
            **{"fetch_model": 0.01, "processing_time": 0.02, "upload_model": 0.01},
            **{"training_metadata": training_metadata, "config": config},
            **meta,
        }
        return fedn_pb2.ModelUpdate(
            sender=self.sender(),
            receiver=fedn_pb2.Client(name="combiner", role=fedn_pb2.COMBINER),
            model_id=model_id,
            model_update_id=model_update_id,
            timestamp=str(datetime.now(timezone.utc)),
            meta=json.dumps(meta),
        )

    def send_update(
        self, model_id: str, model_update_id: str, training_metadata, config: str, **meta
    ) -> fedn_pb2.ModelUpdate:
        """Tell the combiner of an update, whether it was uploaded or not; return the message for ``send_status``."""
        message = self.update_message(model_id, model_update_id, training_metadata, config, **meta)
        self.combiner.SendModelUpdate(message, metadata=self.metadata)
        return message

    def send_status(
        self, text: str, session_id: str, message=None, kind: int = fedn_pb2.StatusType.MODEL_UPDATE
    ) -> None:
        """Send a status with a message as its data: "Model update completed." is what an operator's rows come from."""
        status = fedn_pb2.Status(
            sender=fedn_pb2.Client(name=self.name, role=fedn_pb2.CLIENT),
            log_level=fedn_pb2.LogLevel.AUDIT,
            status=text,
            session_id=session_id,
            type=kind,
            data=MessageToJson(message) if message is not None else "",
        )
        status.timestamp.GetCurrentTime()
        self.connector.SendStatus(status, metadata=self.metadata)

    def validate(self, model_id: str, metrics: dict, session_id: str, correlation_id: str = "") -> None:
        """Send the metrics of a validation, and the status that FEDn's client sends after it."""
        message = fedn_pb2.ModelValidation(
            sender=self.sender(),
            receiver=fedn_pb2.Client(name="combiner", role=fedn_pb2.COMBINER),
            model_id=model_id,
            data=json.dumps(metrics),
            correlation_id=correlation_id,
            session_id=session_id,
        )
        message.timestamp.GetCurrentTime()
        self.combiner.SendModelValidation(message, metadata=self.metadata)
        kind = fedn_pb2.StatusType.MODEL_VALIDATION
        self.send_status("Model validation completed.", session_id, message, kind)


def settings_of(request: fedn_pb2.TaskRequest) -> dict:
    """Return what the server functions sent with a training request."""
    return json.loads(request.data)["client_settings"]


def round_of(request: fedn_pb2.TaskRequest) -> str:
    """Return the configuration of the round that this project's client sends back; FEDn's sends back all of it."""
    config = json.loads(request.data)
    return json.dumps({key: config.get(key) for key in ("round_id", "session_id", "model_id")})


def load_arrays(model: bytes) -> list[np.ndarray]:
    """Return the arrays of a global model's file."""
    with LOADING, np.load(io.BytesIO(model)) as archive:
        return [archive[str(index)] for index in range(len(archive.files))]


def make_update(
    settings: dict, model: bytes, client: str, num_examples: int = 10, change: float = 0.001, **metadata
) -> tuple[bytes, dict]:
    """Return a valid update of the output layer, its values moved by `change`, and its metadata.

    Parameters
    ----------
    settings : see ``settings_of``; codec float32 or float16, batchnorm_statistics not "always".
    model : file of the global model. client : name. metadata : keys that are otherwise than those of a valid update.
    """
    arrays = load_arrays(model)
    values = [np.float32(array) + np.float32(change) for array in arrays[-2:]]  # kernel and bias
    known = {
        "num_examples": num_examples,
        "model": settings["fingerprint"],
        **{key: settings[key] for key in ("base", "round", "codec")},
        "session": settings["session_id"],
        "client": client,
        "layers": [OUTPUT_LAYERS[settings["model"]["name"]]],
        "train_loss": 0.5,
        "trained_params": sum(array.size for array in values),
        "total_params": sum(array.size for array in arrays),
        "download_bytes": len(model),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "update"
        checksum = encoding.encode(str(path), values, codec=settings["codec"])
        encoding.write_metadata(str(path), {**known, "checksum": checksum})
        written = json.loads(Path(f"{path}-metadata").read_text())
        return path.read_bytes(), {**written, **metadata}


def train(client: LightClient, request: fedn_pb2.TaskRequest, model: bytes | None = None, **metadata) -> None:
    """Answer a training request with a valid update of the output layer.

    Parameters
    ----------
    model : file of the global model, if it is not to be downloaded: the combiner forgets it after the round.
    metadata : see ``make_update``.
    """
    model = model or client.download(request.model_id)
    data, metadata = make_update(settings_of(request), model, client.name, **metadata)
    model_update_id = str(uuid.uuid4())
    client.upload(data, model_update_id)
    message = client.send_update(request.model_id, model_update_id, metadata, round_of(request))
    client.send_status("Model update completed.", request.session_id, message)


def take_part(client: LightClient, request: fedn_pb2.TaskRequest) -> None:
    """Answer a request as an honest client does: with an update, or with the metrics of a validation."""
    if request.type == fedn_pb2.StatusType.MODEL_UPDATE:
        train(client, request)
    elif request.type == fedn_pb2.StatusType.MODEL_VALIDATION:
        model = client.download(request.model_id)
        digest = wire.short_digest(wire.digest(load_arrays(model)))
        metrics = {"accuracy": 0.5, "loss": 1.0, "test_examples": 10, "download_bytes": len(model)}
        metrics["model_digest"] = digest
        client.validate(request.model_id, metrics, request.session_id, request.correlation_id)
