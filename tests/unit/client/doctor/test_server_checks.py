"""Checks of the server by 'fedn-partial doctor', each with and without a problem."""

import contextlib
import socket

import pytest
from archives import archive
from fedn_servers.doctor_server import ROLES, check_server, combiner, own_package

from fedn_partial.client.doctor import server_checks
from fedn_partial.client.doctor.check import NOT_CHECKED, OK, PROBLEM, WARNING
from fedn_partial.client.fedn_api.api import connection
from fedn_partial.settings.schema import SettingsError


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


@pytest.mark.parametrize("token", ["\u043a\u043b\u044e\u0447", "  ", "a\nb"])
def test_a_token_that_can_be_none_is_refused(token):
    with pytest.raises(SettingsError, match="characters that no token has"):
        connection(token=token, api_url="http://127.0.0.1:9")


@pytest.mark.parametrize("url", ["http://[::1", "http://a..b", f"http://{'a' * 80}.org", "http://a:b"])
def test_an_address_that_is_none_is_named(url):
    with pytest.raises(SettingsError, match="invalid api_url"):
        connection(api_url=url)
