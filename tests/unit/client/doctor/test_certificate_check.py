"""Check of the server's certificate by 'fedn-partial doctor'."""

import ssl

import pytest
from cryptography.hazmat.primitives import serialization
from fedn_servers.doctor_server import check_server, serve

from fedn_partial.client.doctor import server_checks
from fedn_partial.client.doctor.check import NOT_CHECKED, OK, PROBLEM, WARNING
from fedn_partial.client.fedn_api.api import Connection

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
