"""Download, replacement and refusal of FEDn's active compute package on a device."""

import hashlib
import http.server
import json
import sys
import tempfile
import threading

import pytest
from archives import archive
from fedn.network.clients.client_v2 import ClientOptions

from fedn_partial.client.device import active_package
from fedn_partial.client.device.access_token import Access
from fedn_partial.client.device.active_package import ActivePackage
from fedn_partial.client.device.fedn_client import ResilientClient
from fedn_partial.client.fedn_api.api import Api, ApiError, Connection, connection
from fedn_partial.client.fedn_api.package_archive import PackageError, check_checksum
from fedn_partial.runtime.atomic import WriteError

TRAIN = """
import json, pathlib, sys, zipfile
zipfile.ZipFile(sys.argv[2], "w").close()
pathlib.Path(sys.argv[2] + "-metadata").write_text(json.dumps({"num_examples": 1, "version": "VERSION"}))
"""


class Packages(http.server.BaseHTTPRequestHandler):
    """FEDn's answers to packages/download; `server.active` is (name, archive's content), or None."""

    def do_GET(self):
        self.server.seen.append(self.command)
        if self.server.active is None:
            self.send_response(404)
            self.end_headers()
            return
        name, content = self.server.active
        self.send_response(200)
        self.send_header("Content-Disposition", f"attachment; filename={name}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def fedn():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Packages) as server:
        server.seen, server.active = [], None
        server.api = Api(Connection(f"http://127.0.0.1:{server.server_port}"))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def content(folder, version, startup="touch started", **files):
    """A small package whose update contains its version."""
    commands = {
        **({"startup": {"command": startup}} if startup else {}),
        "train": {"command": "python3 train.py"},
        "validate": {"command": "true"},
    }
    files = {
        "fedn.yaml": json.dumps({"entry_points": commands}),
        "train.py": TRAIN.replace("VERSION", version),
        **files,
    }
    return archive(
        folder / f"{version}.tgz", {name: text for name, text in files.items() if text is not None}
    ).read_bytes()


@pytest.fixture
def package(tmp_path):
    return ActivePackage(tmp_path / "package")


@pytest.fixture
def client(tmp_path, monkeypatch, fedn, package):
    monkeypatch.chdir(tmp_path)
    made = ResilientClient(
        Access(fedn.api.connection, lambda: (None, None)), ClientOptions("a", "remote"), (None, None), package, iter
    )
    made.set_helper()
    return made


def train(client):
    import io

    update, meta = client.on_train(io.BytesIO(b"model"), {})
    assert update is not None
    return meta["training_metadata"]


def test_the_active_package_is_started_up_once(tmp_path, fedn, client, package):
    fedn.active = ("first.tgz", content(tmp_path, "1"))
    for _ in range(3):
        package.refresh(fedn.api)
    assert package.problem is None and fedn.seen.count("GET") == 1
    assert (package.folder / "started").exists()
    assert train(client)["version"] == "1"


def test_a_new_package_is_fetched_into_an_empty_folder(tmp_path, fedn, client, package):
    fedn.active = ("first.tgz", content(tmp_path, "1", **{"old.py": "x = 1\n"}))
    package.refresh(fedn.api)
    (package.folder / ".state").mkdir()
    (package.folder / ".state" / "server.sock").touch()
    fedn.active = ("second.tgz", content(tmp_path, "2"))
    package.refresh(fedn.api)
    assert train(client)["version"] == "2"
    assert {path.name for path in package.folder.iterdir()} == {"fedn.yaml", "train.py", "started"}


BAD = {
    "no entry point": ({"fedn.yaml": "entry_points: {validate: {command: 'true'}}"}, "no entry point 'train'"),
    "no script": ({"train.py": None}, "runs train.py, which is not in the compute package"),
    "startup fails": ({"startup": "false"}, "startup failed .Non-zero exit code: 1"),
}


@pytest.mark.parametrize(("changes", "reason"), BAD.values(), ids=BAD)
def test_a_package_that_cannot_run_is_refused_at_each_request_until_there_is_another(
    tmp_path, fedn, client, package, changes, reason
):
    fedn.active = ("first.tgz", content(tmp_path, "1"))
    package.refresh(fedn.api)
    fedn.active = ("bad.tgz", content(tmp_path, "2", **changes))
    for _ in range(2):
        package.refresh(fedn.api)
        refused = train(client)
        assert refused["num_examples"] == "0" and refused["layers"] == []
        assert reason.split(" .")[0] in refused["refused"] and "cannot run FEDn's compute package" in refused["refused"]
        assert client.on_validation(None) is None
    assert not package.folder.exists(), "nothing of the old package may run on"
    assert fedn.seen.count("GET") == 2, "it is not fetched at each request"
    fedn.active = ("third.tgz", content(tmp_path, "3"))
    package.refresh(fedn.api)
    assert train(client)["version"] == "3"


def test_a_damaged_package_is_fetched_again_later(tmp_path, fedn, client, package, monkeypatch):
    whole = content(tmp_path, "1")
    fedn.active = ("first.tgz", whole[:-30])
    package.refresh(fedn.api)
    assert "truncated or damaged" in train(client)["refused"]
    fedn.active = ("first.tgz", whole)
    package._retry_at = 0.0
    package.refresh(fedn.api)
    assert train(client)["version"] == "1"


def test_the_package_stays_where_fedn_does_not_answer_or_has_none(tmp_path, fedn, client, package):
    fedn.active = ("first.tgz", content(tmp_path, "1"))
    package.refresh(fedn.api)
    with pytest.raises(ApiError):
        package.refresh(Api("http://127.0.0.1:1"))
    package.try_refresh(Api("http://127.0.0.1:1"))
    fedn.active = None
    package.refresh(fedn.api)
    assert train(client)["version"] == "1"


def test_only_the_package_with_the_checksum_of_client_yaml_is_run(tmp_path, fedn):
    pinned = ActivePackage(tmp_path / "package", checksum="0" * 64)
    fedn.active = ("first.tgz", content(tmp_path, "1"))
    pinned.refresh(fedn.api)
    assert "client.yaml allows only 000" in pinned.problem and pinned.dispatcher is None


def test_a_train_that_leaves_no_update_is_answered_with_a_refusal(tmp_path, fedn, client, package):
    fedn.active = ("first.tgz", content(tmp_path, "1", **{"train.py": "import no_such_module\n"}))
    package.refresh(fedn.api)
    assert "train wrote no update (Non-zero exit code: 1)" in train(client)["refused"]


@pytest.mark.parametrize("name", ["with space", "it's", "a$HOME`b`"])
def test_a_request_reaches_its_files_in_whatever_folder(tmp_path, monkeypatch, name):
    """FEDn's client passes its dispatcher one line, which a shell runs."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "train.py").write_text("import sys, pathlib; pathlib.Path(sys.argv[2]).write_text(sys.argv[1])")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    command = f"{sys.executable} train.py"
    dispatcher = active_package.StoppableDispatcher({"entry_points": {"train": {"command": command}}}, str(folder))
    dispatcher.run_cmd(f"train {folder}/in {folder}/out")
    assert (folder / "out").read_text() == f"{folder}/in"


def test_a_disk_without_room_for_a_new_package_leaves_the_old_one(tmp_path):
    class FullDisk:
        def active_package(self):
            return "new.tgz"

        def download_package(self, path):
            raise WriteError("no space left on device")

    package = active_package.ActivePackage(tmp_path / "package")
    package.dispatcher, package.problem = "the old one", None
    package.try_refresh(FullDisk())
    assert package.dispatcher == "the old one" and package.problem is None


@pytest.mark.parametrize("written", ["new", "Bearer new"])
def test_a_token_is_sent_with_one_scheme_wherever_it_was_copied_from(written):
    """From the options, and from client.yaml when that has another."""
    assert connection(api_url="http://127.0.0.1:1", token=written).token == "new"
    tokens = iter([("old", None), (written, None), (written, None)])
    access = Access(Connection("http://127.0.0.1:1", token="old"), lambda: next(tokens))
    assert access.renew() and access.connection.token == "new"
    assert not access.renew()


def test_a_checksum_may_be_written_in_capitals(tmp_path):
    (tmp_path / "p.tgz").write_bytes(b"x")
    checksum = hashlib.sha256(b"x").hexdigest()
    for allowed in (None, checksum, f" {checksum.upper()} "):
        check_checksum(tmp_path / "p.tgz", allowed)
    with pytest.raises(PackageError, match="key package_checksum"):
        check_checksum(tmp_path / "p.tgz", "0" * 64)
