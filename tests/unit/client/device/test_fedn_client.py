"""FEDn's client on a device, with real processes for its requests and without a network."""

import concurrent.futures
import contextlib
import http.server
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import fedn.network.grpc.fedn_pb2 as messages
import grpc
import psutil
import pytest
from fedn.network.clients import grpc_handler
from fedn.network.clients.client_v2 import ClientOptions
from fedn_servers.certificates import Certificates

from fedn_partial.client.device import device_client, fedn_client, retries
from fedn_partial.client.device.access_token import Access
from fedn_partial.client.device.active_package import ActivePackage, StoppableDispatcher
from fedn_partial.client.device.fedn_client import CountingHandler, ResilientClient
from fedn_partial.client.fedn_api.api import Connection
from fedn_partial.runtime.atomic import WriteError

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
    """The gRPC calls of a request, without a network; `task` is the global model."""

    def __init__(self):
        self.metadata = [("client", "id")]
        self.task, self.updates = b"", []

    def get_model_from_combiner(self, *args, **kwargs):
        return fedn_client.ReleasedModel(self.task)

    def send_model_to_combiner(self, model, id):
        assert model is not None

    def send_model_update(self, update):
        self.updates.append(json.loads(update.meta))
        return True

    def send_model_validation(self, validation):
        return True

    def send_status(self, *args, **kwargs):
        pass

    def _disconnect(self):
        pass


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A client with a package of its own, whose temporary files go to `tmp`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", "elsewhere")
    monkeypatch.setattr(device_client.tempfile, "tempdir", None)
    device_client._make_temporary(tmp_path / "tmp")
    package = ActivePackage(tmp_path / "package")
    monkeypatch.setattr(package, "try_refresh", lambda api: None)
    package.folder.mkdir()
    (package.folder / "train.py").write_text(TRAIN)
    commands = {name: {"command": "python3 train.py"} for name in ("train", "validate")}
    package.dispatcher, package.problem = StoppableDispatcher({"entry_points": commands}, str(package.folder)), None
    made = ResilientClient(
        Access(Connection("http://127.0.0.1:1"), lambda: (None, None)),
        ClientOptions("a", "remote"),
        (None, None),
        package,
        iter,
    )
    made.set_helper()
    transport = made.fedn_client
    transport.grpc_handler = Handler()
    transport.set_train_callback(made.on_train)
    transport.set_validate_callback(made.on_validation)
    transport.name, transport.client_id = "a", "id"
    return made


def request(client, task, kind=messages.StatusType.MODEL_UPDATE, **settings):
    """Send the client a request; return the metadata of its update, or None."""
    handler = client.fedn_client.grpc_handler
    handler.task, handler.updates = task.encode(), []
    message = messages.TaskRequest(
        model_id="m", type=kind, data=json.dumps({"round_id": "1", "client_settings": settings})
    )
    client.fedn_client._task_stream_callback(message)
    return handler.updates[0]["training_metadata"] if handler.updates else None


def test_temporary_models_of_a_killed_client_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "elsewhere")
    monkeypatch.setattr(device_client.tempfile, "tempdir", None)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp/left").write_text("x")
    device_client._make_temporary(tmp_path / "tmp")
    assert not list((tmp_path / "tmp").iterdir())
    assert device_client.tempfile.mkstemp()[1].startswith(str(tmp_path / "tmp"))


@pytest.mark.parametrize(("sampled", "models"), [(None, 4), (2, 3)])
def test_a_client_that_was_not_sampled_downloads_no_model_to_validate(client, monkeypatch, sampled, models):
    """FEDn requests validation from all connected clients, sampled for the round or not."""
    handler, downloads = client.fedn_client.grpc_handler, []
    get = handler.get_model_from_combiner
    monkeypatch.setattr(handler, "get_model_from_combiner", lambda **options: downloads.append(options) or get())
    validation = messages.StatusType.MODEL_VALIDATION
    request(client, "train", session={"clients_per_round": sampled})
    request(client, "train", validation)
    request(client, "train", validation)  # of a round that it was not sampled for
    assert len(downloads) == models - 1
    request(client, "train", session={"clients_per_round": sampled})
    assert len(downloads) == models


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
    assert "train wrote no update (Non-zero exit code" in update["refused"]
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    "newer", [messages.StatusType.MODEL_UPDATE, messages.StatusType.MODEL_VALIDATION, "session terminated"]
)
def test_a_training_whose_round_is_over_is_ended_and_the_next_request_served(tmp_path, client, monkeypatch, newer):
    handler, transport = client.fedn_client.grpc_handler, client.fedn_client
    monkeypatch.setattr(fedn_client, "POLL", 0.1)
    terminated = []
    status = {True: {"status": "Terminated"}, False: {"status": "Started"}}
    monkeypatch.setattr(fedn_client.Api, "get", lambda api, path, **_: status[path in terminated])
    model = {"1": b"wait", "2": b"train"}
    monkeypatch.setattr(handler, "get_model_from_combiner", lambda id, **_: fedn_client.ReleasedModel(model[id]))
    monkeypatch.setattr(transport, "send_heartbeats", lambda *_: None)
    monkeypatch.setattr(transport, "default_telemetry_loop", lambda *_: None)

    def ask(kind, name):
        data = json.dumps({"round_id": name, "client_settings": {}})
        return messages.TaskRequest(model_id=name, type=kind, data=data, session_id=name)

    def stream(client_name, client_id, put):
        put(ask(messages.StatusType.MODEL_UPDATE, "1"))
        while not running(psutil.Process()):
            time.sleep(0.02)
        if newer == "session terminated":
            terminated.append("sessions/1")
            while not handler.updates:
                time.sleep(0.02)
            put(ask(messages.StatusType.MODEL_UPDATE, "2"))
            return
        put(ask(newer, "2"))

    def running(process):
        with contextlib.suppress(psutil.Error):
            return any(child.cmdline()[1:2] == ["train.py"] for child in process.children(recursive=True))

    monkeypatch.setattr(handler, "listen_to_task_stream", stream)
    started = time.monotonic()
    with pytest.raises(ConnectionError):
        transport.run()
    assert time.monotonic() - started < 20  # the first one waits for 30 s
    rounds = [json.loads(meta["config"])["round_id"] for meta in handler.updates]
    expected = {messages.StatusType.MODEL_UPDATE: ["2"], messages.StatusType.MODEL_VALIDATION: []}
    assert rounds == expected.get(newer, ["1", "2"])
    if newer == "session terminated":  # FEDn's combiner waits for an answer, or the round's timeout
        assert handler.updates[0]["training_metadata"]["refused"] == "training was stopped: its session was terminated"
    assert not running(psutil.Process()) and list((tmp_path / "tmp").iterdir()) == []


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


# The way to the controller and to the combiner


class Controller(http.server.BaseHTTPRequestHandler):
    """FEDn's clients/add, and a server that refreshes tokens; `server.valid` is the token that it accepts."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, body, self.headers.get("Authorization")))
        status, answer = 401, {"message": "Token expired"}
        if "refresh" in self.path and body == {"refresh": "good"}:
            status, answer = 200, {"access": self.server.valid}
        elif self.headers.get("Authorization") == f"Bearer {self.server.valid}":
            status, answer = 200, {"client_id": "id", "host": "127.0.0.1", "port": 1}
        if self.server.broken:
            status = self.server.broken.pop()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def controller():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Controller) as server:
        server.seen, server.valid, server.broken = [], "new", []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def connect(controller, tokens, tries=3, preferred=None):
    """Register a client with an expired token; `tokens` returns those in client.yaml. Return whether it succeeded."""
    access = Access(Connection(controller.url, token="old"), tokens)
    options = ClientOptions("a", "remote", preferred)
    client = ResilientClient(access, options, (None, None), ActivePackage(Path("package")), lambda: iter([0] * tries))
    return client._connect_to_api() is not None


def test_an_expired_token_is_refreshed(tmp_path, monkeypatch, controller):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDN_AUTH_REFRESH_TOKEN_URI", raising=False)
    assert connect(controller, lambda: ("old", "good"))
    assert [path for path, *_ in controller.seen] == [
        "/api/v1/clients/add",
        "/api/token/refresh/",
        "/api/v1/clients/add",
    ]


def test_fedns_variable_says_where_a_token_is_refreshed(tmp_path, monkeypatch, controller):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDN_AUTH_REFRESH_TOKEN_URI", f"{controller.url}/other/refresh")
    assert connect(controller, lambda: ("old", "good"))
    assert controller.seen[1][0] == "/other/refresh"


def test_an_expired_token_is_waited_for_in_the_file(tmp_path, monkeypatch, controller):
    monkeypatch.chdir(tmp_path)
    tokens = iter(["old", "old", "old", "new"])
    assert connect(controller, lambda: (next(tokens), None), tries=4)
    assert [authorization for *_, authorization in controller.seen] == ["Bearer old"] * 3 + ["Bearer new"]


def test_a_refused_refresh_token_and_a_broken_server_are_waited_for(tmp_path, monkeypatch, controller, capfd):
    monkeypatch.chdir(tmp_path)
    assert not connect(controller, lambda: ("old", "s3cret"))
    assert "refuses the refresh token (401)" in (told := capfd.readouterr().err) and "s3cret" not in told
    assert "may have expired" in told
    controller.broken = [500, 500]
    controller.valid = "old"
    assert connect(controller, lambda: ("old", None))


def test_the_controller_is_told_the_preferred_combiner_by_its_own_name_for_it(tmp_path, monkeypatch, controller):
    monkeypatch.chdir(tmp_path)
    controller.valid = "old"
    assert connect(controller, lambda: ("old", None), preferred="north")
    assert controller.seen[0][1]["combiner_preferred"] == controller.seen[0][1]["preferred_combiner"] == "north"


@pytest.mark.parametrize("token", ["t", None])
def test_a_private_authority_and_a_token_go_together(tmp_path, monkeypatch, token):
    """Against a gRPC server with a certificate of a private authority."""
    certificates = Certificates(tmp_path)
    certificates.context()
    pem = (tmp_path / "server.pem").read_bytes()
    seen = []

    class Recorder(grpc.GenericRpcHandler):
        def service(self, details):
            seen.append(dict(details.invocation_metadata).get("authorization"))
            return grpc.unary_unary_rpc_method_handler(lambda request, context: messages.Response().SerializeToString())

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1), handlers=[Recorder()])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(pem, pem)]))
    server.start()
    monkeypatch.setenv("FEDN_GRPC_ROOT_CERT_PATH", str(certificates.ca))
    monkeypatch.setattr(grpc_handler, "GRPC_SECURE_PORT", port)
    try:
        handler = CountingHandler("127.0.0.1", port, name="id", token=token, combiner_name="c")
        handler.heartbeat("a", "id")
        handler._disconnect()
    finally:
        server.stop(None)
    assert seen == [token and f"Bearer {token}"]


class Combiner:
    """A gRPC server that accepts heartbeats and can be stopped and started."""

    def __init__(self):
        self.beats, self.port, self.server = [], 0, None

    def service(self, details):
        self.beats.append(time.monotonic())
        return grpc.unary_unary_rpc_method_handler(lambda request, context: messages.Response().SerializeToString())

    def start(self):
        self.server = grpc.server(
            concurrent.futures.ThreadPoolExecutor(1), handlers=[self], options=[("grpc.so_reuseport", 0)]
        )
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.server.start()

    def wait_for_a_beat(self, seconds):
        """Wait for a heartbeat; return the seconds it took."""
        started, number = time.monotonic(), len(self.beats)
        while len(self.beats) == number:
            assert time.monotonic() - started < seconds
            time.sleep(0.01)
        return time.monotonic() - started


def test_a_device_is_back_soon_after_its_combiner_however_often_that_was_away(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(retries, "MAX_PAUSE", 0.4)
    combiner = Combiner()
    combiner.start()
    handler = CountingHandler("127.0.0.1", combiner.port, name="id", token=None, combiner_name="c")
    beat = threading.Thread(target=handler.send_heartbeats, args=("a", "id", 0.02), daemon=True)
    beat.start()
    combiner.wait_for_a_beat(10)
    for away in (
        0.1,
        0.1,
        0.1,
        0.1,
        0.1,
        0.1,
        3,
    ):  # FEDn would wait 0.05 * 2**n: 6 s after the 7th, more after the last
        combiner.server.stop(None).wait()
        time.sleep(away)
        combiner.start()
        assert combiner.wait_for_a_beat(20) < 3
    monkeypatch.setattr(handler, "heartbeat", lambda *_: None)  # ends the thread
    beat.join(5)
    combiner.server.stop(None)


def test_a_message_that_a_round_can_do_without_is_given_up(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.01)
    with socket.socket() as taken:  # a port on which nobody listens
        taken.bind(("127.0.0.1", 0))
        handler = CountingHandler("127.0.0.1", taken.getsockname()[1], name="id", token=None, combiner_name="c")
        with pytest.raises(grpc_handler.RetryException, match="send_status: 5 attempts failed"):
            handler.send_status("done", sender_name="a", session_id="s")


def test_a_refusal_is_not_tried_again():
    combiner = Combiner()
    combiner.service = lambda details: None  # which gRPC answers as an unknown method
    combiner.start()
    handler = CountingHandler("127.0.0.1", combiner.port, name="id", token=None, combiner_name="c")
    with pytest.raises(grpc.RpcError) as refused:
        handler.send_model_update(messages.ModelUpdate())
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    combiner.server.stop(None)


# The working folder

HOLD = """
import pathlib, sys, time
from fedn_partial.client.device import work_folder
work_folder.claim(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
print("claimed", flush=True)
time.sleep(60)
"""


def test_a_working_folder_is_for_one_client_and_one_user(tmp_path):
    folder, config = tmp_path / "work", tmp_path / "client.yaml"
    folder.mkdir(mode=0o755)
    command = [sys.executable, "-c", HOLD, str(folder), str(config)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "claimed\n"
        assert folder.stat().st_mode & 0o777 == 0o700
        second = subprocess.run(command, capture_output=True, text=True)
        assert f"running client (process {first.pid}, of {config})" in second.stderr and "'workdir:'" in second.stderr
    finally:
        first.kill()
        first.wait()
    third = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert third.stdout.readline() == "claimed\n", "a killed client must not keep its folder"
    third.kill()
    third.wait()


def test_a_second_start_in_a_folder_leaves_the_firsts_files_alone(tmp_path):
    (tmp_path / "client.yaml").write_text(
        "name: a\napi_url: http://127.0.0.1:1\nfedn_partial: {data: d, workdir: work}\n"
    )
    command = [
        sys.executable,
        "-m",
        "fedn_partial.client",
        "client",
        "start",
        "--config",
        str(tmp_path / "client.yaml"),
    ]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        while "trying again" not in first.stderr.readline():
            pass
        (tmp_path / "work/tmp/model").touch()
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert second.returncode == 2 and f"process {first.pid}" in second.stderr
        assert (tmp_path / "work/tmp/model").exists()
        modes = {path.name: path.stat().st_mode & 0o077 for path in [tmp_path / "work", *(tmp_path / "work").iterdir()]}
        assert set(modes) >= {"work", "tmp", "client-id"} and not any(modes.values()), modes
    finally:
        first.kill()
        first.wait()


def test_an_error_of_a_task_is_not_taken_for_a_lost_connection():
    handler = CountingHandler("127.0.0.1", 1, name="id", token=None, combiner_name="c")
    failing = retries._retried(lambda handler: (_ for _ in ()).throw(WriteError("no space")), None)
    with pytest.raises(WriteError):
        failing(handler)
