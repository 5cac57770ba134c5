"""Ports and addresses of a local network."""

import socket

import pytest

from fedn_partial.client.network import addresses
from fedn_partial.errors import FednPartialError


@pytest.fixture
def taken():
    """A port on which a program listens."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_the_port_of_the_last_start_is_kept_or_refused(taken, tmp_path):
    free = addresses._free_port()
    assert addresses.choose_port("hooks", free, True, tmp_path) == free
    with pytest.raises(FednPartialError, match=f"port {taken} of the hooks of {tmp_path} is in use"):
        addresses.choose_port("hooks", taken, False, tmp_path)


def test_a_default_port_in_use_is_replaced(taken, tmp_path, monkeypatch):
    monkeypatch.setitem(addresses.PORTS, "hooks", taken)
    assert addresses.choose_port("hooks", None, False, tmp_path) != taken
    free = addresses._free_port()
    monkeypatch.setitem(addresses.PORTS, "hooks", free)
    assert addresses.choose_port("hooks", None, False, tmp_path) == free


def test_a_port_answers_while_a_program_listens(taken):
    assert addresses.answers("127.0.0.1", taken)
    assert not addresses.answers("127.0.0.1", addresses._free_port())


def test_an_address_of_another_machine_is_refused():
    addresses.check_address("127.0.0.1")
    with pytest.raises(FednPartialError, match=r"--listen 192\.0\.2\.1: not an address of this machine"):
        addresses.check_address("192.0.2.1")
