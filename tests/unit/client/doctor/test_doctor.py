"""Checks of 'fedn-partial doctor', each with and without a problem."""

import contextlib
import email.utils
import functools
import http.server
import json
import os
import socket
import ssl
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from archives import archive
from certificates import Certificates
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization

from fedn_partial.client.commands.cli import main
from fedn_partial.client.doctor import device_checks, doctor, server_checks
from fedn_partial.client.doctor.check import NOT_CHECKED, OK, PROBLEM, WARNING
from fedn_partial.client.doctor.device_checks import Memory
from fedn_partial.client.fedn_api.api import Connection, connection
from fedn_partial.data.shard import Shard, write_shard
from fedn_partial.seed_model.package import build_package
from fedn_partial.settings.client_file import ClientFile
from fedn_partial.settings.schema import SettingsError


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """Empty folder; no environment variables of FEDn or proxies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in list(os.environ):
        if name.startswith("FEDN") or name.lower().endswith("_proxy") or name.endswith("_CA_BUNDLE"):
            monkeypatch.delenv(name)


# The machine


@pytest.mark.parametrize(
    ("version", "state"),
    [((3, 9, 18), PROBLEM), ((3, 10, 0), OK), ((3, 12, 9), OK), ((3, 13, 0), PROBLEM), ((2, 7, 18), PROBLEM)],
)
def test_python(version, state):
    check = device_checks.python(version)
    assert check.state == state and ".".join(map(str, version)) in check.text
    assert state == OK or "3.10 to 3.12" in check.text


@pytest.mark.parametrize(
    ("machine", "bits", "state"),
    [("x86_64", 64, OK), ("aarch64", 64, OK), ("aarch64", 32, PROBLEM), ("armv7l", 32, PROBLEM), ("i686", 32, PROBLEM)],
)
def test_architecture(machine, bits, state):
    check = device_checks.architecture(machine, bits)
    assert check.state == state and (state == OK or "64-bit system" in check.text)


@pytest.mark.parametrize(
    ("library", "state", "words"),
    [
        (("glibc", "2.31"), OK, "2.31"),
        (("glibc", "2.27"), OK, "2.27"),  # JetPack 4.6
        (("glibc", "2.23"), WARNING, "older"),
        (("glibc", "2.12"), PROBLEM, "Debian"),
        (("", ""), PROBLEM, "musl"),
    ],
)
def test_c_library(library, state, words):
    check = device_checks.glibc(library)
    assert check.state == state and words in check.text


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "state", "words"),
    [
        ("x86_64", "model name\t: Xeon\nflags\t\t: fpu sse4_2 avx avx2\n", OK, "Xeon"),
        ("x86_64", "model name\t: Celeron J1900\nflags\t\t: fpu sse4_2 avxx\n", PROBLEM, "Celeron J1900: no AVX"),
        ("aarch64", "Features\t: fp asimd crc32\nCPU part\t: 0xd07\n", OK, "0xd07"),
        ("x86_64", None, NOT_CHECKED, "No such file"),
    ],
)
def test_processor(tmp_path, machine, cpuinfo, state, words):
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    check = device_checks.processor(machine, tmp_path / "cpuinfo")
    assert check.state == state and words in check.text


def test_what_is_installed_here_fits_together():
    check = device_checks.packages("fedn-partial")
    assert check.state == OK, check.text
    assert "fedn 0.33" in check.text and "2.20" in check.text


def install(folder, name, version, requires=()):
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {text}" for text in requires)]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))


NEEDS = ("dt-sql<2.1", "dt-net[tls]>=1", "dt-win; sys_platform == 'win32'", "dt-dev; extra == 'dev'")
INSTALLED = {
    "all there": ({"dt-sql": "2.0.9", "dt-net": "1.5", "dt-tls": "3.0"}, OK, "all 4 packages are compatible"),
    "too new": ({"dt-sql": "2.1.0", "dt-net": "1.5", "dt-tls": "3"}, PROBLEM, "dt-sql 2.1.0 does not satisfy <2.1"),
    "missing": ({"dt-net": "1.5", "dt-tls": "3.0"}, PROBLEM, "dt-sql is missing"),
    "needed by what is needed": (
        {"dt-sql": "2", "dt-net": "1", "dt-tls": "4"},
        PROBLEM,
        "dt-tls 4 does not satisfy ==3.*",
    ),
    "an extra": ({"dt-sql": "2", "dt-net": "1"}, PROBLEM, "dt-tls is missing"),
    "a pre-release": ({"dt-sql": "2.0rc1", "dt-net": "1", "dt-tls": "3"}, OK, "are compatible"),
}


@pytest.mark.parametrize(("there", "state", "words"), INSTALLED.values(), ids=INSTALLED)
def test_versions(tmp_path, monkeypatch, there, state, words):
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "dt-app", "1.0", NEEDS)
    for name, version in there.items():
        needs = ("dt-tls==3.*; extra == 'tls'", "dt-app") if name == "dt-net" else ()
        install(tmp_path, name, version, needs)
    check = device_checks.packages("dt-app")
    assert check.state == state and words in check.text
    assert state == OK or "reinstall dt-app" in check.text


def test_versions_where_not_even_what_compares_them_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    check = device_checks.packages("fedn-partial")
    assert check.state == PROBLEM and "packaging is missing" in check.text


KILL = "import os, signal; os.kill(os.getpid(), signal.{})"
IMPORTS = {
    "good": ("held = b'x' * 30_000_000", "x86_64", OK, "MB of memory"),
    "missing": ("import no_such_module", "x86_64", PROBLEM, "No module named 'no_such_module'; reinstall fedn-partial"),
    "illegal instruction, Jetson": (KILL.format("SIGILL"), "aarch64", PROBLEM, "SIGILL; set OPENBLAS_CORETYPE=ARMV8"),
    "illegal instruction, PC": (KILL.format("SIGILL"), "x86_64", PROBLEM, "killed by SIGILL; this build needs"),
    "memory": (KILL.format("SIGKILL"), "x86_64", PROBLEM, "killed by SIGKILL; probably out of memory"),
    "crash": (KILL.format("SIGSEGV"), "aarch64", PROBLEM, "killed by SIGSEGV; reinstall"),
    "stuck": ("import time; time.sleep(60)", "x86_64", PROBLEM, "not imported after 3 s"),
}


@pytest.mark.parametrize(("code", "machine", "state", "words"), IMPORTS.values(), ids=IMPORTS)
def test_an_import_in_a_process_of_its_own(code, machine, state, words):
    found = device_checks.imports("TensorFlow", code, machine, timeout=3 if "sleep" in code else 60)
    assert found.check.state == state and words in found.check.text
    assert found.mb is None if state == PROBLEM else 30 < found.mb < 80


MEMORY = {
    "plenty": (Memory(4_000_000_000, 3_000_000_000, 0, False), OK, "3,000 of 4,000 MB free"),
    "free memory is short": (Memory(2_000_000_000, 250_000_000, 0, False), WARNING, "stop other programs"),
    "enough for a small model": (
        Memory(270_000_000, 265_000_000, 0, False),
        WARNING,
        "another 40 MB for a small model",
    ),
    "too little": (Memory(250_000_000, 240_000_000, 0, False), PROBLEM, "add memory or swap"),
    "too little, but for the swap": (Memory(250_000_000, 240_000_000, 10**9, False), WARNING, "stop other programs"),
    "unknown": (Memory(None, None, 0, False), NOT_CHECKED, "does not report it"),
}


@pytest.mark.parametrize(("there", "state", "words"), MEMORY.values(), ids=MEMORY)
def test_memory(there, state, words):
    check = device_checks.memory(there, base_mb=220.0)
    assert check.state == state and words in check.text
    assert state == NOT_CHECKED or "TensorFlow take 220 MB" in check.text


def test_memory_beside_imports_that_could_not_be_measured():
    assert "TensorFlow take 230 MB" in device_checks.memory(MEMORY["plenty"][0], None).text


def test_memory_of_this_machine():
    there = device_checks.read_memory()
    assert 0 < there.available <= there.total


@pytest.mark.parametrize(
    ("there", "states"),
    [
        (Memory(2_000_000_000, 1, 0, False), [WARNING]),
        (Memory(2_000_000_000, 1, 1_000_000_000, False), [OK]),
        (Memory(8_000_000_000, 1, 0, False), []),
        (Memory(2_000_000_000, 1, 0, True), []),
        (Memory(None, None, 0, False), []),
    ],
    ids=["small, none", "small, some", "large", "control group", "unknown"],
)
def test_swap(there, states):
    checks = list(device_checks.swap(there))
    assert [check.state for check in checks] == states
    assert states != [WARNING] or "mkswap" in checks[0].text


def test_disk(tmp_path):
    work = tmp_path / "not yet" / "there"
    plenty = device_checks.disk(work, free=10**9)
    # 20 MB of samples, 59 MB of remainders, two models of 59 MB
    assert plenty.state == OK and "1,000 MB free, up to 197 MB needed" in plenty.text
    full = device_checks.disk(work, free=196 * 10**6)
    assert full.state == PROBLEM and "'workdir:' in client.yaml" in full.text


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="no /dev/shm here")
def test_models_that_would_lie_in_memory():
    found = device_checks.disk(Path("/dev/shm/work"), free=10**9)
    assert found.state == WARNING and "file system is in memory" in found.text


def test_a_folder_of_another_user(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    found = device_checks.disk(tmp_path / "work")
    assert found.state == PROBLEM and "change its owner" in found.text


def write_test_shard(folder):
    x, y = np.zeros((6, 8, 8, 1), np.uint8), np.zeros(6, np.int32)
    write_shard(folder, Shard(x, y, x[:2], y[:2], ("zero", "one")), "test")


def test_data(tmp_path):
    assert device_checks.data(str(tmp_path / "none")).state == PROBLEM
    write_test_shard(tmp_path / "data")
    check = device_checks.data(str(tmp_path / "data"))
    assert check.state == OK and "6 training and 2 test examples, 2 classes" in check.text
    (tmp_path / "data" / "x_test.npy").write_bytes(b"no array")
    check = device_checks.data(str(tmp_path / "data"))
    assert check.state == PROBLEM and "damaged" in check.text and "docs/DATA.md" in check.text


# The server


class Controller(http.server.BaseHTTPRequestHandler):
    """Answers of FEDn 0.33's controller; the attributes of `server` are set in ``serve``."""

    def do_GET(self):
        self.server.seen.append((self.command, self.path))
        role = self.server.roles.get(self.headers.get("Authorization"))
        path = self.path.partition("/api/v1/")[2]
        if path == "packages/download" and self.server.package:
            self.reply_with_package()
        elif self.command == "HEAD":
            self.reply(404, {})
        elif self.server.roles and role not in (self.server.signal[path], "both"):
            self.reply(401, {"message": "Invalid token" if "Authorization" in self.headers else "Missing token"})
        else:
            self.reply(*self.server.answers[path])

    def reply_with_package(self):
        name, content = self.server.package
        self.send_response(200)
        self.send_header("Content-Disposition", f"attachment; filename={name}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_POST = do_PUT = do_GET

    def reply(self, status, answer):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode() if isinstance(answer, dict) else answer)

    def date_time_string(self, timestamp=None):
        return email.utils.formatdate(time.time() + self.server.ahead, usegmt=True)

    def log_message(self, *_):
        pass


@functools.cache
def own_package():
    with tempfile.TemporaryDirectory() as folder:
        build_package(Path(folder) / "p.tgz")
        return (Path(folder) / "p.tgz").read_bytes()


@contextlib.contextmanager
def serve(context=None):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Controller) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        server.url = f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
        server.seen, server.ahead, server.roles = [], 0, {}
        server.package = ("p.tgz", own_package())
        server.signal = {"packages/checksum": "client", "combiners/": "admin"}
        server.answers = {
            "packages/checksum": (200, {"checksum": "abc", "message": "Checksum created."}),
            "combiners/": (200, {"count": 1, "result": [combiner("combiner", server.server_port)]}),
        }
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def fedn():
    with serve() as server:
        yield server


def combiner(name, port, **changes):
    return {"name": name, "address": "127.0.0.1", "port": port, "fqdn": None, "ip": "", **changes}


@pytest.fixture
def closed():
    """A reserved port without a listener."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def check_server(url, raw=None, **options):
    return {
        check.name: check
        for check in server_checks.examine(Connection(api_url=url, **options), ClientFile(**raw or {}))
    }


def test_all_is_well_and_nothing_was_changed_at_the_server(fedn):
    checks = check_server(fedn.url)
    assert {name: check.state for name, check in checks.items()} == {
        **{"server": OK, "clock": OK, "certificate": NOT_CHECKED, "controller": OK, "compute package": OK},
        "combiner": OK,
    }
    assert {method for method, _ in fedn.seen} == {"HEAD", "GET"}
    assert "clients/add" not in str(fedn.seen)


def test_nobody_listens(closed):
    checks = check_server(f"http://127.0.0.1:{closed}")
    assert list(checks) == ["server"] and checks["server"].state == PROBLEM
    assert "Connection refused" in checks["server"].text and "api_url" in checks["server"].text


def test_unknown_name():
    (check,) = check_server("http://no-such-host.invalid:8092").values()
    assert check.state == PROBLEM and "'no-such-host.invalid' cannot be resolved" in check.text


def test_a_firewall_that_swallows_everything(monkeypatch):
    monkeypatch.setattr(server_checks, "CONNECT_TIMEOUT", 0.3)
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # then the kernel drops what else knocks
            knock = waiting.enter_context(socket.socket())
            knock.setblocking(False)
            knock.connect_ex(full.getsockname())
        check = server_checks.reachable("server", *full.getsockname(), "")
    assert check.state == PROBLEM and "firewall" in check.text


@pytest.mark.parametrize("ahead", [-7200, -63, -55, 55, 63, 86400 * 365])
def test_clock(fedn, ahead):
    fedn.ahead = ahead
    checks = check_server(fedn.url)
    assert checks["clock"].state == (OK if abs(ahead) < 60 else PROBLEM)
    if abs(ahead) > 60:
        direction = "behind" if ahead > 0 else "ahead of"
        seconds, _, words = checks["clock"].text.partition(" s ")
        assert abs(int(seconds.replace(",", "")) - abs(ahead)) <= 2
        assert words.startswith(direction) and "timedatectl" in words
    assert checks["combiner"].state == OK, "a wrong clock must not end the examination"


ROLES = {"Bearer good": "client", "Bearer operator": "admin", "Bearer anything": "both"}
TOKENS = {
    "none": (None, PROBLEM, "requires a token", None),
    "wrong": ("wrong", PROBLEM, "does not accept the token (Invalid token)", None),
    "an operator's": ("operator", PROBLEM, "put a client's token into", None),
    "a device's": ("good", OK, "with the token", NOT_CHECKED),
    "for everything": ("anything", OK, "with the token", OK),
}


@pytest.mark.parametrize(("token", "state", "words", "combiners"), TOKENS.values(), ids=TOKENS)
def test_token(fedn, token, state, words, combiners):
    fedn.roles = ROLES
    checks = check_server(fedn.url, token=token)
    assert checks["controller"].state == state and words in checks["controller"].text
    assert ("combiner" in checks) == (combiners is not None)
    if combiners:
        assert checks["combiner"].state == combiners


def test_the_token_is_not_shown(fedn):
    fedn.roles = ROLES
    assert "s3cret" not in str(check_server(fedn.url, token="s3cret"))


ANSWERS = {
    "no package": (
        404,
        {"checksum": None, "message": "No compute package uploaded"},
        OK,
        "without a token",
    ),
    "a package elsewhere": (404, {"checksum": None, "message": "File not found."}, OK, "without a token"),
    "another service": (404, {"message": "not found"}, PROBLEM, "is not a FEDn controller"),
    "a web page": (200, b"<html>hello</html>", PROBLEM, "check api_url"),
    "a broken server": (500, b"oops", PROBLEM, "answers (500)"),
}


@pytest.mark.parametrize(("status", "body", "state", "words"), ANSWERS.values(), ids=ANSWERS)
def test_controller(fedn, status, body, state, words):
    fedn.answers["packages/checksum"] = (status, body)
    check = check_server(fedn.url)["controller"]
    assert check.state == state and words in check.text


def packed(folder, files):
    return archive(folder / "other.tgz", files).read_bytes()


FOREIGN = {"fedn.yaml": "entry_points: {train: {command: python3 t.py}, validate: {command: python3 t.py}}", "t.py": ""}
PACKAGES = {
    "none": (None, WARNING, "has none yet"),
    "damaged": (lambda folder: own_package()[:5000], PROBLEM, "cannot be run: the archive is truncated"),
    "incomplete": (lambda folder: packed(folder, {"fedn.yaml": "{}"}), PROBLEM, "the operator must upload"),
    "of others": (lambda folder: packed(folder, FOREIGN), WARNING, "is not built by fedn-partial"),
}


@pytest.mark.parametrize(("made", "state", "words"), PACKAGES.values(), ids=PACKAGES)
def test_the_active_compute_package(tmp_path, fedn, made, state, words):
    fedn.package = ("p.tgz", made(tmp_path)) if made else None
    check = check_server(fedn.url)["compute package"]
    assert check.state == state and words in check.text


def test_a_combiner_behind_a_closed_port(fedn, closed):
    fedn.answers["combiners/"] = (200, {"result": [combiner("a", fedn.server_port), combiner("b", closed)]})
    check = check_server(fedn.url)["combiner"]
    assert check.state == PROBLEM and f"127.0.0.1 port {closed} cannot be reached" in check.text
    assert str(fedn.server_port) not in check.text
    preferred = check_server(fedn.url, {"preferred_combiner": "a"})["combiner"]
    assert preferred.state == OK and f"port {fedn.server_port} answers" in preferred.text


def test_combiners_that_only_the_servers_own_network_can_find(fedn):
    inside = combiner("a", 12080, address="combiner.invalid")
    outside = combiner("b", 12080, fqdn="grpc.example.invalid")
    fedn.answers["combiners/"] = (200, {"result": [inside, outside]})
    check = check_server(fedn.url)["combiner"]
    assert check.state == PROBLEM
    assert (
        "'combiner.invalid' cannot be resolved" in check.text
        and "'grpc.example.invalid' cannot be resolved" in check.text
    )


NO_COMBINERS = {
    "none": ({"result": []}, {}, "has no combiner;"),
    "not the preferred": ({"result": [combiner("a", 1)]}, {"preferred_combiner": "b"}, "no combiner 'b'"),
    "an error": ({"message": "An unexpected error occurred"}, {}, "does not list its combiners"),
    "garbage": ({"result": [5]}, {}, "does not list its combiners"),
    "no JSON": (b"<html>", {}, "does not list its combiners"),
}


@pytest.mark.parametrize(("answer", "raw", "words"), NO_COMBINERS.values(), ids=NO_COMBINERS)
def test_no_combiner(fedn, answer, raw, words):
    fedn.answers["combiners/"] = (200, answer)
    check = check_server(fedn.url, raw)["combiner"]
    assert check.state == PROBLEM and words in check.text


def test_a_combiner_that_client_yaml_names_is_tried_whatever_the_server_says(fedn, closed):
    fedn.roles = ROLES
    check = check_server(fedn.url, {"combiner": "127.0.0.1", "combiner_port": closed}, token="good")["combiner"]
    assert check.state == PROBLEM and str(closed) in check.text


def test_through_a_proxy(fedn, monkeypatch):
    """The proxy (here FEDn itself) resolves the name; this device need not."""
    monkeypatch.setenv("http_proxy", fedn.url)
    fedn.answers["http://fedn.invalid/api/v1/packages/checksum"] = fedn.answers["packages/checksum"]
    fedn.answers["http://fedn.invalid/api/v1/combiners/"] = fedn.answers["combiners/"]
    checks = check_server("http://fedn.invalid")
    assert checks["server"].state == NOT_CHECKED and "proxy 127.0.0.1" in checks["server"].text
    assert (checks["clock"].state, checks["controller"].state, checks["combiner"].state) == (OK, OK, OK)


# TLS


@pytest.fixture
def certificates(tmp_path):
    return Certificates(tmp_path)


TLS = {
    "good": ({}, True, OK, "valid for 127.0.0.1, expires in 90 days"),
    "expires soon": ({"days": (-80, 5)}, True, WARNING, "renew it"),
    "expired": ({"days": (-80, -1)}, True, PROBLEM, "certificate has expired; renew it"),
    "from tomorrow on": ({"days": (1, 80)}, True, PROBLEM, "not yet valid; check this device's clock"),
    "for another name": ({"address": "192.0.2.1"}, True, PROBLEM, "in the certificate as api_url"),
    "of an unknown authority": ({}, False, PROBLEM, "with 'ca:' in client.yaml"),
}


@pytest.mark.parametrize(("made", "known", "state", "words"), TLS.values(), ids=TLS)
def test_certificate(certificates, made, known, state, words):
    with serve(certificates.context(**made)) as fedn:
        checks = check_server(fedn.url, ca=str(certificates.ca) if known else None)
    assert checks["certificate"].state == state and words in checks["certificate"].text
    assert checks["clock"].state == OK, "the clock can be told without trust"
    assert ("controller" in checks) == (state != PROBLEM)
    assert state == PROBLEM or checks["controller"].state == OK


def test_the_token_is_never_sent_to_a_server_that_is_not_trusted(certificates):
    with serve(certificates.context()) as fedn:
        check_server(fedn.url, token="s3cret")
        assert {method for method, _ in fedn.seen} == {"HEAD"}


def test_self_signed(certificates):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key = certificates.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (certificates.folder / "self.pem").write_bytes(key + certificates.ca.read_bytes())
    context.load_cert_chain(certificates.folder / "self.pem")
    with serve(context) as fedn:
        check = check_server(fedn.url)["certificate"]
    assert check.state == PROBLEM and "self-signed" in check.text.replace("self signed", "self-signed")
    assert "'ca:'" in check.text


def test_insecure_is_possible_and_said(certificates):
    with serve(certificates.context()) as fedn:
        checks = check_server(fedn.url, insecure=True)
    assert checks["certificate"].state == WARNING and checks["controller"].state == OK


def test_plain_http_where_tls_is_expected(fedn):
    check = check_server(fedn.url.replace("http", "https"))["certificate"]
    assert check.state == PROBLEM and "try http://" in check.text


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_authority_that_cannot_be_read(certificates, content):
    path = certificates.folder / "other.pem"
    if content:
        path.write_text(content)
    with serve(certificates.context()) as fedn:
        check = check_server(fedn.url, ca=str(path))["certificate"]
    assert check.state == PROBLEM and f"{path} cannot be read" in check.text


def test_a_token_over_plain_http(fedn):
    other = Connection(api_url="http://fedn.example.org", token="t")
    assert server_checks.certificate(other, "fedn.example.org", 80).state == WARNING
    assert server_checks.certificate(Connection(api_url=fedn.url, token="t"), "127.0.0.1", 80).state == NOT_CHECKED


# The whole


@pytest.fixture
def quick(monkeypatch):
    """Replace the imports by fast ones."""
    found = device_checks.imports("x", "pass")
    monkeypatch.setattr(device_checks, "imports", lambda name, code: found)


def client_yaml(folder, fedn, **changes):
    path = folder / "client.yaml"
    section = {"data": "data", "workdir": "work"}
    path.write_text(yaml.safe_dump({"name": "device-1", "api_url": fedn.url, "fedn_partial": section, **changes}))
    return path


def doctor_says(*words):
    return CliRunner().invoke(main, ["doctor", *map(str, words)])


def test_a_device_that_is_fit(tmp_path, fedn):
    """With the real imports and ./client.yaml."""
    write_test_shard(tmp_path / "data")
    client_yaml(tmp_path, fedn)
    result = doctor_says()
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert not any(line[:1] == ["problem"] for line in lines) and "no problems found" in result.output
    assert any(line[:2] == ["ok", "TensorFlow"] for line in lines)
    assert not (tmp_path / "work").exists(), "a doctor changes nothing"


def test_a_device_that_is_not(tmp_path, fedn, quick):
    """No data, and a wrong token in the file: both problems are named, and the other checks run."""
    fedn.roles = ROLES
    path = client_yaml(tmp_path, fedn, token="wrong")
    result = doctor_says("--config", path)
    assert result.exit_code == 1 and "problems: data, controller" in result.output
    assert "shard.json does not exist" in result.output
    better = doctor_says("--config", path, "--token", "good")  # options win
    assert better.exit_code == 1 and "problems: data\n" in better.output


def test_json(tmp_path, fedn, quick):
    write_test_shard(tmp_path / "data")
    path = client_yaml(tmp_path, fedn)
    result = doctor_says("--config", path, "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 0 and told["ok"] is True
    names = [check["name"] for check in told["checks"]]
    assert {"Python", "packages", "memory", "client.yaml", "data", "clock", "combiner"} <= set(names)
    assert all(set(check) == {"name", "state", "text"} for check in told["checks"])
    fedn.answers["combiners/"] = (200, {"result": []})
    result = doctor_says("--config", path, "--json")
    assert result.exit_code == 1 and json.loads(result.stdout)["ok"] is False


FILES = {
    "no such file": (None, "cannot be read", NOT_CHECKED),
    "no section": ("name: a\napi_url: {url}\n", "section 'fedn_partial' is missing", OK),
    "no name": ("api_url: {url}\nfedn_partial: {{data: data}}\n", "key 'name' is missing", OK),
    "unknown key": ("name: a\napi_url: {url}\nfedn_partial: {{dta: x}}\n", "did you mean 'data'", OK),
    "a wrong port": (
        "name: a\napi_url: {url}\napi_port: x\nfedn_partial: {{data: data}}\n",
        "api_port must be of type int",
        NOT_CHECKED,
    ),
    "a key of FEDn's with a slip": (
        "name: a\napi_ulr: {url}\nfedn_partial: {{data: data}}\n",
        "unknown key 'api_ulr', did you mean 'api_url'?",
        NOT_CHECKED,
    ),
    "no address": ("name: a\nfedn_partial: {{data: data}}\n", "", PROBLEM),
    "no YAML": ("{{", "is not YAML", NOT_CHECKED),
}


@pytest.mark.parametrize(("content", "words", "server"), FILES.values(), ids=FILES)
def test_a_file_that_is_not_right(tmp_path, fedn, quick, content, words, server):
    path = tmp_path / "mine.yaml"
    if content:
        path.write_text(content.format(url=fedn.url))
    checks = {check.name: check for check in doctor.examine(path, {}, on_event=lambda line: None)}
    assert checks["client.yaml"].state == (PROBLEM if words else OK) and words in checks["client.yaml"].text
    assert checks["server"].state == server, checks["server"].text


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o640, False), (0o600, False)], ids=oct)
@pytest.mark.parametrize("key", ["token", "refresh_token", None])
def test_a_token_that_every_user_can_read(tmp_path, fedn, quick, mode, warned, key):
    path = client_yaml(tmp_path, fedn, **({key: "t"} if key else {}))
    path.chmod(mode)
    checks = {check.name: check for check in doctor.examine(path, {}, on_event=lambda line: None)}
    assert ("token" in checks) == (warned and key is not None)
    assert "token" not in checks or "chmod o-rwx" in checks["token"].text


def test_without_a_file_the_options_say_where_fedn_is(fedn, quick):
    checks = {check.name: check for check in doctor.examine(None, {"api_url": fedn.url}, on_event=lambda line: None)}
    assert (checks["client.yaml"].state, checks["data"].state) == (NOT_CHECKED, NOT_CHECKED)
    assert checks["combiner"].state == OK


def test_results_come_one_by_one(monkeypatch, fedn):
    """Results are printed before TensorFlow is imported; data are not opened if the import kills its process."""
    began = []

    def imports(name, code):
        began.append(name)
        return device_checks.Imported(device_checks.Check(name, PROBLEM, "killed by SIGILL"))

    monkeypatch.setattr(device_checks, "imports", imports)
    examination = doctor.examine(client_yaml(Path.cwd(), fedn), {}, on_event=began.append)
    assert next(examination).name == "Python" and began == []
    checks = {check.name: check for check in examination}
    assert began[1:] == ["FEDn's client", "TensorFlow"]
    assert checks["data"].state == NOT_CHECKED and "needs TensorFlow; fix that first" in checks["data"].text


def test_doctor_imports_nothing_that_may_kill_it():
    """numpy and TensorFlow may be built for another processor; fedn imports numpy."""
    code = (
        "import sys; from fedn_partial.client.doctor import doctor; "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    with os.popen(f'{sys.executable} -c "{code}"') as told:
        assert not set(told.read().split()) & {"numpy", "tensorflow", "keras", "fedn", "grpc"}


@pytest.mark.parametrize("token", ["\u043a\u043b\u044e\u0447", "  ", "a\nb"])
def test_a_token_that_can_be_none_is_refused(token):
    with pytest.raises(SettingsError, match="characters that no token has"):
        connection(token=token, api_url="http://127.0.0.1:9")


@pytest.mark.parametrize("url", ["http://[::1", "http://a..b", f"http://{'a' * 80}.org", "http://a:b"])
def test_an_address_that_is_none_is_named(url):
    with pytest.raises(SettingsError, match="invalid api_url"):
        connection(api_url=url)
