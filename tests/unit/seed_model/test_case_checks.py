"""What can be known of a case is checked before anything is started or written, by every command."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from fedn_partial import configs
from fedn_partial.client import simulation
from fedn_partial.client.commands.cli import main
from fedn_partial.client.network import network
from fedn_partial.client.profiling import flavours, profile
from fedn_partial.errors import FednPartialError
from fedn_partial.seed_model.case_checks import check_case, check_fleet
from fedn_partial.settings.case import load_case

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
    "more clients a round than clients": (
        {"session": {"clients_per_round": 4}},
        "clients_per_round is 4, but data: clients is 3",
    ),
    "data of another shape": ({}, "no client can train: examples have shape (32, 32, 3), the model expects"),
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
LOCAL = COMMANDS.keys() - {"run", "simulate"}
BLIND = {
    "too few clients": LOCAL,
    "more clients a round than clients": LOCAL,
    "data of another shape": LOCAL,
    "more clients than examples": LOCAL,
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


@pytest.fixture
def right(tmp_path, monkeypatch):
    """A case with which nothing is wrong, in the working folder."""
    monkeypatch.chdir(tmp_path)
    model = {"name": "vgg16", "width": 0.015625}
    (tmp_path / "case.yaml").write_text(yaml.safe_dump({**CASE, "model": model}))


def test_a_network_that_cannot_be_started_leaves_no_folder(right, tmp_path, monkeypatch):
    def missing():
        raise FednPartialError("rclone is missing")

    monkeypatch.setattr(network, "find_rclone", missing)
    result = CliRunner().invoke(main, COMMANDS["run"])
    assert result.exit_code == 2 and "rclone is missing" in result.output
    assert not list(tmp_path.glob("runs/*"))


def test_a_profile_whose_network_cannot_be_started_leaves_no_folder(right, tmp_path, monkeypatch):
    def missing():
        raise FednPartialError("rclone is missing")

    monkeypatch.setattr(network, "find_rclone", missing)
    case, flavour = load_case(Path("case.yaml")), flavours.load_flavours()["ssc.small"]
    shard = profile.random_shard(case, 10)
    with pytest.raises(FednPartialError, match=r"^rclone is missing$"):
        setup = profile.Setup(None, "image", [flavour], {}, [3], shard)
        profile.run_profile(case, setup, tmp_path / "runs", lambda event: None)
    assert not list(tmp_path.glob("runs/*"))


def test_a_simulation_that_is_stopped_before_its_first_round_leaves_no_folder(right, tmp_path, monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(simulation, "prepare", stopped)
    result = CliRunner().invoke(main, COMMANDS["simulate"])
    assert result.exit_code == 1 and "interrupted before the first round; the folder is removed" in result.output
    assert not list(tmp_path.glob("runs/*"))


SHIPPED = sorted(
    path
    for path in Path(configs.__file__).parent.glob("*.yaml")
    if path.stem not in ("client", "flavours", "paper")  # which are no cases
)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_cases_that_are_shipped_are_right(path):
    case = load_case(path)
    check_case(case)
    if case.data:  # devices may have their own
        check_fleet(case)


def test_a_dead_url_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(CASE))
    result = CliRunner().invoke(main, COMMANDS["session start"])
    assert result.exit_code == 2
    assert "no FEDn controller answers at http://127.0.0.1:9" in result.output
    assert not list(tmp_path.glob("runs/*"))
