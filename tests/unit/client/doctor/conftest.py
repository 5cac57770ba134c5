"""Servers and a clean environment for the checks of 'fedn-partial doctor'."""

import os
import socket

import pytest
from fedn_servers.certificates import Certificates
from fedn_servers.doctor_server import serve


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """Empty folder; no environment variables of FEDn or proxies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in list(os.environ):
        if name.startswith("FEDN") or name.lower().endswith("_proxy") or name.endswith("_CA_BUNDLE"):
            monkeypatch.delenv(name)


@pytest.fixture
def fedn():
    with serve() as server:
        yield server


@pytest.fixture
def closed():
    """A reserved port without a listener."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def certificates(tmp_path):
    return Certificates(tmp_path)
