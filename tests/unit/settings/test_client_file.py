"""A device's client.yaml: every key is known or refused, and FEDn's earlier files are understood."""

import pytest

from fedn_partial.client.device.device_client import device_connection
from fedn_partial.client.fedn_api.address import base_url
from fedn_partial.client.fedn_api.api import connection
from fedn_partial.runtime.launch import client_name
from fedn_partial.settings.client_file import WITHOUT_EFFECT, ClientFile, load_client_file, load_device, load_name
from fedn_partial.settings.schema import SettingsError


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No files and no variables that say where FEDn is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("FEDN_PARTIAL_API_URL", "FEDN_PARTIAL_API_PORT", "FEDN_PARTIAL_CA", "FEDN_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def write(folder, text):
    path = folder / "client.yaml"
    path.write_text(text)
    return path


SLIPS = {
    "api_ulr: x": "unknown key 'api_ulr', did you mean 'api_url'?",
    "tokn: x": "unknown key 'tokn', did you mean 'token'?",
    "fedn-partial: {data: d}": "unknown key 'fedn-partial', did you mean 'fedn_partial'?",
    "prefered_combiner: a": "did you mean 'preferred_combiner'?",
    "Name: a": "unknown key 'Name', did you mean 'name'?",
    "data: d": "unknown key 'data'",
    "5: d": "unknown key '5'",
    "controller: {hots: a}": "controller: unknown key 'hots', did you mean 'host'?",
    "controller: a": "controller: expected keys and values, found 'a'",
    "api_port: 99999": "api_port must be at most 65535, found 99999",
    "api_port: eighty": "api_port must be of type int, found 'eighty'",
    "insecure: perhaps": "insecure must be of type bool",
    "name: [a]": "name must be of type str",
}


@pytest.mark.parametrize(("text", "told"), SLIPS.items(), ids=SLIPS)
def test_what_is_not_known_or_wrong_is_refused_by_file_key_and_value(tmp_path, text, told):
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as refused:
        load_client_file(path)
    assert str(refused.value).startswith(f"{path}: ") and told in str(refused.value)
    with pytest.raises(SettingsError):
        load_device(path)


@pytest.mark.parametrize("key", ["token", "refresh_token"])
def test_a_secret_is_not_shown(tmp_path, key):
    with pytest.raises(SettingsError, match=f"{key} must be text") as refused:
        load_client_file(write(tmp_path, f"{key}: [s3cret]"))
    assert "s3cret" not in str(refused.value)
    assert "s3cret" not in repr(load_client_file(write(tmp_path, f"{key}: s3cret")))


NAMES = {"42": "42", "007": "007", "on": "on", "1e3": "1e3", "2026-11-25": "2026-11-25", "'device 1'": "device 1"}


@pytest.mark.parametrize(("written", "name"), NAMES.items(), ids=NAMES)
def test_a_name_is_what_is_written(tmp_path, written, name):
    path = write(tmp_path, f"name: {written}\ntoken: {written}\nfedn_partial: {{data: d}}\n")
    assert load_name(path) == name == client_name(str(path), None)
    assert load_client_file(path).token == name


@pytest.mark.parametrize("written", ["", "~", "''"])
def test_a_name_that_is_missing_is_named(tmp_path, written):
    with pytest.raises(SettingsError, match="key 'name' is missing"):
        load_name(write(tmp_path, f"name: {written}\n"))


def test_every_key_of_fedns_own_is_taken(tmp_path):
    """Those of FEDn's command line for its clients, of FEDn Studio's files, and of earlier versions."""
    import inspect
    import re

    from fedn.cli import client_cmd

    start = inspect.getsource(client_cmd.commands["start"].callback)
    known = set(re.findall(r'^ {8}"(\w+)": None', start, re.MULTILINE))
    assert {"api_url", "validator", "discover_port"} <= known
    values = dict.fromkeys(known | set(WITHOUT_EFFECT) | {"refresh_token"}, "1")
    file = load_client_file(write(tmp_path, "".join(f"{key}: {value}\n" for key, value in values.items())))
    assert set(file.ignored) == set(WITHOUT_EFFECT)


FILES = {
    "of today": ("api_url: https://fedn.example.org\ntoken: t\n", "https://fedn.example.org"),
    "of FEDn Studio": (
        "client_id: a\ndiscover_host: studio.example.org/x-fedn-reducer\nrefresh_token: r\ntoken: t\n",
        "https://studio.example.org/x-fedn-reducer",
    ),
    "of earlier versions": (
        "network_id: fedn-network\ndiscover_host: 127.0.0.1\ndiscover_port: 8092\ntoken: t\n",
        "http://127.0.0.1:8092",
    ),
    "of the paper's time": (
        "network_id: fedn-network\ncontroller:\n  host: reducer.example.org\n  port: '8090'\n  token: t\n",
        "https://reducer.example.org:8090",
    ),
    "of two times": (
        "api_url: http://api-server:8092\ndiscover_host: api-server\ntoken: t\n",
        "http://api-server:8092",
    ),
}


@pytest.mark.parametrize(("text", "url"), FILES.values(), ids=FILES)
def test_files_of_every_time_say_where_fedn_is(tmp_path, text, url):
    made = device_connection(write(tmp_path, f"name: a\n{text}fedn_partial: {{data: d}}\n"), {})
    assert (made.base_url, made.token) == (url, "t")
    assert device_connection(tmp_path / "client.yaml", {"token": "other"}).token == "other"


def test_a_device_joins_no_server_that_nobody_named(tmp_path, monkeypatch):
    path = write(tmp_path, "name: a\nfedn_partial: {data: d}\n")
    for config in (path, None):
        with pytest.raises(SettingsError, match=r"api_url is missing.*client\.yaml, with --api-url or as FEDN_PARTIAL"):
            device_connection(config, {})
    assert device_connection(path, {"api_url": "http://a"}).base_url == "http://a"
    monkeypatch.setenv("FEDN_PARTIAL_API_URL", "http://b")
    assert device_connection(path, {}).base_url == "http://b"
    assert ClientFile().connection_options()["api_url"] is None


ADDRESSES = {
    "https://fedn.example.org/": "https://fedn.example.org",
    "HTTPS://Fedn.Example.org/a/b/": "https://fedn.example.org/a/b",
    " fedn.example.org ": "https://fedn.example.org:8092",
    "fedn.example.org:1": "https://fedn.example.org:1",
    "http://fedn.example.org:1/x": "http://fedn.example.org:1/x",
    "localhost": "http://localhost:8092",
    "127.0.0.1:1": "http://127.0.0.1:1",
    "http://[::1]:1": "http://[::1]:1",
    "[::1]:1": "http://[::1]:1",
    "[2001:db8::1]": "https://[2001:db8::1]:8092",
    "http://[2001:DB8::1]": "http://[2001:db8::1]:8092",
    "https://bücher.example": "https://bücher.example",
}


@pytest.mark.parametrize(("address", "url"), ADDRESSES.items(), ids=ADDRESSES)
def test_an_address_gets_protocol_and_port(address, url):
    port = 8092 if url.endswith(":8092") else None
    assert base_url(address, port) == url == connection(api_url=address, api_port=port).base_url


NO_ADDRESSES = {
    "::1": r"in brackets, as in http://\[::1\]:8092",
    "2001:db8::1": "in brackets",
    "http://[::g]": "invalid api_url",
    "http://user:s3cret@fedn.example.org": "user or password in it; set 'token'",
    "user@fedn.example.org": "user or password",
    "\u201chttps://fedn.example.org\u201d": "contains '\u201c'; write it without quotes",
    "'https://fedn.example.org'": "without quotes",
    "https://fedn. example.org": "contains ' '",
    "https://fedn.example.org\u200b": "without quotes and spaces",
    "ftp://fedn.example.org": "http:// or https://",
    "htps://fedn.example.org": "http:// or https://",
    "http:/fedn.example.org": "no host; write it as in https://fedn.example.org",
    "https://": "no host",
    "https://fedn.example.org:0": "port 0",
    "https://fedn.example.org:70000": "Port out of range",
    "https://fedn.example.org:x": "Port could not be cast",
    "https://fedn.example.org/?a=b": "remove the query or fragment",
}


@pytest.mark.parametrize(("address", "told"), NO_ADDRESSES.items(), ids=NO_ADDRESSES)
def test_what_is_no_address_is_refused_by_name(address, told):
    for make in (lambda: base_url(address), lambda: connection(api_url=address)):
        with pytest.raises(SettingsError, match=told) as refused:
            make()
        assert "s3cret" not in str(refused.value)


def test_a_nul_character_in_a_folder_is_refused(tmp_path):
    path = tmp_path / "client.yaml"
    path.write_text('name: a\nfedn_partial:\n  data: "shard\\0"\n')
    with pytest.raises(SettingsError, match="fedn_partial: data must not contain NUL"):
        load_device(path)
