"""FEDn's client on a device, with real processes for its requests and without a network."""

import contextlib
import io
import json
import os
import signal
import threading
import time
from pathlib import Path

import fedn.network.grpc.fedn_pb2 as messages
import psutil
import pytest
from fedn.network.clients.client_v2 import ClientOptions
from fedn.utils.dispatcher import Dispatcher

from fedn_partial.client import fedn_client, node
from fedn_partial.client.active_package import ActivePackage
from fedn_partial.client.fedn_client import CountingHandler, PatientClient
from fedn_partial.seed_model.api import Connection

# A train that leaves files of its own, and then does what its global model says.
TRAIN = """
import json, pathlib, sys, tempfile, time, zipfile
tempfile.mkstemp()
task = pathlib.Path(sys.argv[1]).read_text()
if task == "wait":
    time.sleep(30)
if task != "nothing":
    zipfile.ZipFile(sys.argv[2], "w").close()
    pathlib.Path(sys.argv[2] + "-metadata").write_text(json.dumps({"num_examples": 1}))
sys.exit(task == "fail")
"""


class Handler(CountingHandler):
    """The calls that a request makes, without a network; `task` is the global model."""

    def __init__(self):
        self.metadata = [("client", "id")]
        self.task, self.updates = b"", []

    def get_model_from_combiner(self, *args, **kwargs):
        return fedn_client.HandedOver(self.task)

    def send_model_to_combiner(self, model, id):
        assert model is not None

    def send_model_update(self, update):
        self.updates.append(json.loads(update.meta))
        return True

    def send_model_validation(self, validation):
        return True

    def send_status(self, *args, **kwargs):
        pass


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A client with a package of its own, whose temporary files go to `tmp`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", "elsewhere")
    monkeypatch.setattr(node.tempfile, "tempdir", None)
    node._make_temporary(tmp_path / "tmp")
    package = ActivePackage(tmp_path / "package")
    monkeypatch.setattr(package, "look", lambda api: None)
    package.folder.mkdir()
    (package.folder / "train.py").write_text(TRAIN)
    commands = {name: {"command": "python3 train.py"} for name in ("train", "validate")}
    package.dispatcher, package.problem = Dispatcher({"entry_points": commands}, str(package.folder)), None
    made = PatientClient(Connection("http://127.0.0.1:1"), ClientOptions("a", "remote"), (None, None), package, iter)
    made.set_helper()
    transport = made.fedn_client
    transport.grpc_handler = Handler()
    transport.set_train_callback(made.on_train)
    transport.set_validate_callback(made.on_validation)
    transport.name, transport.client_id = "a", "id"
    return made


def request(client, task, kind=messages.StatusType.MODEL_UPDATE):
    """Let the client serve one request; return the metadata of its update, if it sent one."""
    handler = client.fedn_client.grpc_handler
    handler.task, handler.updates = task.encode(), []
    message = messages.TaskRequest(model_id="m", type=kind, data=json.dumps({"round_id": "1"}))
    client.fedn_client._task_stream_callback(message)
    return handler.updates[0]["training_metadata"] if handler.updates else None


def test_temporary_models_of_a_killed_client_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "elsewhere")
    monkeypatch.setattr(node.tempfile, "tempdir", None)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp/left").write_text("x")
    node._make_temporary(tmp_path / "tmp")
    assert not list((tmp_path / "tmp").iterdir())
    assert node.tempfile.mkstemp()[1].startswith(str(tmp_path / "tmp"))


@pytest.mark.parametrize("task", ["train", "fail", "nothing"])
@pytest.mark.parametrize("kind", [messages.StatusType.MODEL_UPDATE, messages.StatusType.MODEL_VALIDATION])
def test_nothing_is_left_behind_after_a_request(tmp_path, client, task, kind):
    update = request(client, task, kind)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert os.environ["TMPDIR"] == str(tmp_path / "tmp")
    if kind == messages.StatusType.MODEL_UPDATE:
        assert ("refused" in update) == (task != "train")


def test_nothing_is_left_behind_by_a_request_that_is_killed(tmp_path, client):
    def kill():
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            made = list((tmp_path / "tmp").glob("*/*"))
            with contextlib.suppress(psutil.Error):
                for process in psutil.Process().children(recursive=True):
                    # FEDn's three files, and one of its own
                    if process.cmdline()[1:2] == ["train.py"] and len(made) == 4:
                        os.kill(process.pid, signal.SIGKILL)
                        return
            time.sleep(0.02)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    update = request(client, "wait")
    killer.join()
    assert "train left no update (Non-zero exit code" in update["refused"]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_full_disk_is_answered_with_a_refusal(client, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fedn_client.tempfile, "mkdtemp", full)
    monkeypatch.setattr(client.helper, "get_tmp_path", full)
    assert "No space left on device" in request(client, "train")["refused"]


def test_a_refusal_is_a_model_for_fedn(tmp_path):
    from fedn.utils.helpers.plugins.numpyhelper import Helper

    update, meta = fedn_client.refusal("no")
    Path(tmp_path / "u.npz").write_bytes(update.getvalue())
    (array,) = Helper().load(io.BytesIO(update.getvalue()))
    assert array.shape == (0,) and meta["training_metadata"]["refused"] == "no"
