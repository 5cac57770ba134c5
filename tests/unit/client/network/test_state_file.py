"""The file in which a local network keeps what runs."""

import json

import pytest

from fedn_partial.client.network.network import PORTS, Network
from fedn_partial.errors import FednPartialError

STATE = {"ports": dict.fromkeys(PORTS, 8092), "host": "127.0.0.1", "running": {}}


@pytest.mark.parametrize(
    "change",
    [
        {"ports": 3},
        {"ports": {}},
        {"ports": dict.fromkeys(PORTS, "x")},
        {"running": []},
        {"running": {"hooks": 3}},
        {"supervisor": 7},
        {"supervisor": ["x"]},
    ],
)
def test_a_damaged_state_file_is_refused_by_name(tmp_path, change):
    path = tmp_path / "network.json"
    path.write_text(json.dumps({**STATE, **change}))
    with pytest.raises(FednPartialError, match=r"network\.json is damaged .* stop the network's processes by hand"):
        Network(tmp_path).load()


def test_a_whole_one_is_read(tmp_path):
    (tmp_path / "network.json").write_text(json.dumps(STATE))
    network = Network(tmp_path)
    network.load()
    assert network.ports == STATE["ports"] and network.running == {}
