"""What can be known of a case is checked before anything is started or written, by every command."""

import pytest
import yaml
from click.testing import CliRunner

from fedn_partial.client.cli import main

CASE = {
    "name": "small",
    "model": {"name": "lstm_har"},
    "selection": {"selector": "random", "layers": 2},
    "session": {"rounds": 1, "min_clients": 2},
    "data": {"name": "digits", "clients": 3},
}

WRONG = {
    "unknown data set": ({"data": {"name": "digit"}}, "name 'digit' is unknown. Allowed are: digits, cifar10"),
    "more layers than there are": (
        {"selection": {"selector": "random", "layers": 99}},
        "layers is 99, but the model has 6 layers",
    ),
    "unknown layer": (
        {"selection": {"selector": "random", "layers": 2, "always_train": ["conv0"]}},
        "no layer called 'conv0'; the model has",
    ),
    "too few clients": ({"session": {"min_clients": 4}}, "min_clients is 4, but data: clients is 3"),
    "more clients than examples": (
        {"model": {"name": "vgg16", "width": 0.0625}, "data": {"name": "digits", "clients": 1795}},
        "are too few for 1795 clients",
    ),
}
COMMANDS = {
    "run": ["run", "case.yaml"],
    "simulate": ["simulate", "case.yaml"],
    "plan": ["plan", "case.yaml", "--memory", "1GB"],
    "profile": ["profile", "case.yaml", "--flavours", "ssc.small", "--layers", "1"],
    "session start": ["session", "start", "case.yaml", "--api-url", "http://127.0.0.1:9"],
}
# Which commands do not look at what is wrong.
BLIND = {
    "too few clients": {"plan", "profile", "session start"},
    "more clients than examples": {"plan", "profile", "session start"},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_in_a_case_is_said_and_nothing_is_left(wrong, tmp_path, monkeypatch):
    change, message = WRONG[wrong]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "case.yaml").write_text(yaml.safe_dump({**CASE, **change}))
    for command in COMMANDS.keys() - BLIND.get(wrong, set()):
        result = CliRunner().invoke(main, COMMANDS[command])
        assert result.exit_code == 2, (command, result.output)
        assert message in result.output, command
        assert not list(tmp_path.glob("runs/*/session.json")), command
        assert not [p for p in tmp_path.glob("runs/*") if p.name.startswith("small")], command


def test_a_dead_url_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(CASE))
    result = CliRunner().invoke(main, COMMANDS["session start"])
    assert result.exit_code == 2
    assert "no FEDn controller answers at http://127.0.0.1:9" in result.output
    assert not list(tmp_path.glob("runs/*"))
