"""Settings: who wins over whom, and what is refused in which words."""

import math
from pathlib import Path

import pytest
import yaml
from paths import ROOT

from fedn_partial.settings.case import Device, Training, load_case, load_round_settings
from fedn_partial.settings.client_file import load_device
from fedn_partial.settings.schema import SettingsError

CONFIGS = ROOT / "configs"
NOT_CASES = {"client.yaml", "flavours.yaml", "paper.yaml"}
CASE = {"name": "x", "model": {"name": "lstm_har"}, "selection": {"selector": "uniform", "layers": 2}}
SENT = {
    "round": 3,
    "warmup": False,
    "seed": 1,
    "model": {"name": "lstm_har"},
    "fingerprint": "f" * 16,
    "base": "b" * 32,
    "selection": {"selector": "all"},
    "codec": "float32",
    "session_id": "a1",
}


def write(folder, content):
    path = folder / "given.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def refusal(load, *arguments):
    with pytest.raises(SettingsError) as error:
        load(*arguments)
    return str(error.value)


@pytest.mark.parametrize(
    "path", [path for path in sorted(CONFIGS.glob("*.yaml")) if path.name not in NOT_CASES], ids=lambda p: p.name
)
def test_shipped_case_loads(path):
    raw = yaml.safe_load(path.read_text())
    case = load_case(path)
    assert (case.name, case.model, case.selection) == (raw["name"], raw["model"], raw["selection"])


def test_shipped_cases_are_found():
    assert "quickstart.yaml" in {path.name for path in CONFIGS.glob("*.yaml")}


def test_shipped_device_file_loads():
    device = load_device(CONFIGS / "client.yaml")
    assert (device.data, device.workdir) == (str(CONFIGS / "data"), str(CONFIGS))


def test_device_wins_over_server_wins_over_default():
    sent = {**SENT, "training": {"epochs": 5, "batch_size": 16}}
    settings = load_round_settings(sent, Device(data="data", training={"batch_size": 4}))
    assert settings.training == Training(epochs=5, batch_size=4, optimizer="adam", learning_rate=0.001)


@pytest.mark.parametrize("sent", [{}, {"training": {}}])
def test_defaults_hold_where_nobody_says_otherwise(sent):
    assert load_round_settings({**SENT, **sent}, Device(data="data")).training == Training()


def test_sections_left_out_of_a_case_have_their_defaults(tmp_path):
    case = load_case(write(tmp_path, {**CASE, "session": {"rounds": 2}}))
    assert (case.seed, case.training, case.merge, case.data) == (1, Training(), "all_clients", None)
    assert (case.session.rounds, case.session.round_timeout) == (2, 180)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"modle": {}}, ["unknown key 'modle'", "did you mean 'model'?", "Allowed are: model, selection, seed"]),
        ({"training": {"epoch": 2}}, ["training: unknown key 'epoch'", "did you mean 'epochs'?", "batch_size"]),
        ({"seed": "one"}, ["seed must be of type int, found 'one'"]),
        ({"seed": -1}, ["seed must be at least 0, found -1"]),
        ({"seed": True}, ["seed must be of type int, found True"]),
        ({"training": {"epochs": 1_000_000}}, ["training: epochs must be at most 1000, found 1000000"]),
        ({"training": {"epochs": True}}, ["training: epochs must be of type int, found True"]),
        ({"training": {"epochs": 1.0}}, ["training: epochs must be of type int, found 1.0"]),
        ({"training": {"learning_rate": True}}, ["training: learning_rate must be of type float, found True"]),
        ({"training": {"learning_rate": 0}}, ["training: learning_rate must be above 0, found 0.0"]),
        ({"training": {"learning_rate": math.nan}}, ["training: learning_rate", "above 0", "nan"]),
        ({"training": {"learning_rate": math.inf}}, ["training: learning_rate", "inf"]),
        ({"training": {"optimizer": "adamw"}}, ["training: optimizer must be one of adam, sgd, found 'adamw'"]),
        ({"training": {"optimizer": "sgd", "momentum": 1}}, ["training: momentum must be below 1, found 1.0"]),
        ({"training": {"momentum": 0.9}}, ["training: momentum=0.9", "sgd", "adam"]),
        ({"training": [1]}, ["training: expected keys and values, found [1]"]),
        (
            {"merge": "mean"},
            [
                "merge must be one of all_clients, contributors, shrunk, inverse_probability, clipped, trimmed_mean, "
                "median, found 'mean'"
            ],
        ),
        ({"codec": "int4"}, ["codec must be one of float32, float16, int8, found 'int4'"]),
        ({"model_dtype": "int8"}, ["model_dtype must be one of float32, float16, found 'int8'"]),
        ({"objective": "proximal"}, ["objective must be of type dict, found 'proximal'"]),
        ({"objective": {"name": "fedprox", "mu": 1}}, ["objective: name 'fedprox' is unknown. Allowed are: proximal"]),
        ({"objective": {"mu": 1}}, ["objective: name None is unknown. Allowed are: proximal"]),
        ({"objective": {"name": "proximal"}}, ["objective: key 'mu' is missing"]),
        ({"objective": {"name": "proximal", "muh": 1}}, ["objective: unknown key 'muh'", "did you mean 'mu'?"]),
        ({"objective": {"name": "proximal", "mu": -1}}, ["objective: mu must be at least 0, found -1.0"]),
        ({"objective": {"name": "proximal", "mu": math.nan}}, ["objective: mu must be at least 0, found nan"]),
        ({"objective": {"name": "proximal", "mu": "1"}}, ["objective: mu must be of type float, found '1'"]),
        (
            {"objective": {"name": "proximal", "mu": 1, "decoupled": 1}},
            ["objective: decoupled must be of type bool, found 1"],
        ),
        ({"objective": {"name": "my_terms:Mine"}}, ["objective: name: module 'my_terms' is not allowed"]),
        ({"session": {"rounds": 0}}, ["session: rounds must be at least 1, found 0"]),
        ({"data": {"clients": 0}}, ["data: clients must be at least 1, found 0"]),
        ({"model": "lstm_har"}, ["model must be of type dict, found 'lstm_har'"]),
        ({"model": {"name": "lstm_har", "classes": 1}}, ["model: classes must be at least 2, found 1"]),
        (
            {"selection": {"selector": "some"}},
            ["selection: selector 'some'", "random, uniform, stratified, cyclic, top, scored, all, fixed"],
        ),
    ],
)
def test_case_is_refused_by_file_key_and_value(tmp_path, change, told):
    path = write(tmp_path, {**CASE, **change})
    message = refusal(load_case, path)
    for words in [str(path), *told]:
        assert words in message


@pytest.mark.parametrize("key", CASE)
def test_missing_key_is_named(tmp_path, key):
    path = write(tmp_path, {name: value for name, value in CASE.items() if name != key})
    assert refusal(load_case, path) == f"{path}: key {key!r} is missing"


@pytest.mark.parametrize("load", [load_case, load_device])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        (b"name: [1", "is not YAML"),
        (b"\xff\xfe\xfa", "is not YAML"),
        (b"- name", "expected keys and values, found list"),
        (b"", "expected keys and values, found NoneType"),
    ],
)
def test_unusable_file_is_named(tmp_path, load, content, told):
    path = tmp_path / "broken.yaml"
    if content is not None:
        path.write_bytes(content)
    message = refusal(load, path)
    assert message.startswith(f"{path}: ")
    assert told in message


def test_folders_of_a_device_count_from_its_file(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "here", {"fedn_partial": {"data": "shard", "workdir": "../work"}})
    monkeypatch.chdir(tmp_path / "elsewhere")
    device = load_device("../here/given.yaml")
    assert Path(device.data) == tmp_path / "here" / "shard"
    assert Path(device.workdir).resolve() == tmp_path / "work"


def test_absolute_folder_of_a_device_stays(tmp_path):
    device = load_device(write(tmp_path, {"fedn_partial": {"data": "/mnt/shard"}}))
    assert (device.data, device.workdir) == ("/mnt/shard", str(tmp_path))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"name": "a"}, ["'fedn_partial' is missing", "data: FOLDER"]),
        ({"fedn_partial": None}, ["'fedn_partial' is missing"]),
        ({"fedn_partial": "data"}, ["fedn_partial must be of type dict, found 'data'"]),
        ({"fedn_partial": {}}, ["fedn_partial: key 'data' is missing"]),
        ({"fedn_partial": {"data": 5}}, ["fedn_partial: data must be of type str, found 5"]),
        ({"fedn_partial": {"data": "d", "max_layer": 1}}, ["unknown key 'max_layer'", "did you mean 'max_layers'?"]),
        (
            {"fedn_partial": {"data": "d", "objective": {"name": "proximal", "mu": 1}}},
            ["fedn_partial: unknown key 'objective'. Allowed are: data"],
        ),
        ({"fedn_partial": {"data": "d", "max_layers": 0}}, ["max_layers must be at least 1, found 0"]),
        ({"fedn_partial": {"data": "d", "max_layers": True}}, ["max_layers must be of type int, found True"]),
        ({"fedn_partial": {"data": "d", "monitor_interval": 0}}, ["monitor_interval must be above 0, found 0.0"]),
        (
            {"fedn_partial": {"data": "d", "training": {"epochs": 0}}},
            ["training: epochs must be at least 1, found 0"],
        ),
        (
            {"fedn_partial": {"data": "d", "training": {"objective": {"name": "proximal", "mu": 1}}}},
            ["training: unknown key 'objective'"],
        ),
        (
            {"fedn_partial": {"data": "d", "training": {"layers": 2}}},
            ["training: unknown key 'layers'", "Allowed are: epochs, batch_size, optimizer, learning_rate, momentum"],
        ),
    ],
)
def test_device_file_is_refused_by_file_key_and_value(tmp_path, content, told):
    path = write(tmp_path, content)
    message = refusal(load_device, path)
    for words in [str(path), *told]:
        assert words in message


def test_device_may_set_only_the_momentum_of_the_sessions_sgd(tmp_path):
    device = load_device(write(tmp_path, {"fedn_partial": {"data": "d", "training": {"momentum": 0.5}}}))
    settings = load_round_settings({**SENT, "training": {"optimizer": "sgd"}}, device)
    assert settings.training == Training(optimizer="sgd", momentum=0.5)


@pytest.mark.parametrize("sent", [{}, None])
def test_no_instructions_point_at_the_server_functions(sent):
    message = refusal(load_round_settings, sent, Device(data="data"))
    assert "server functions are not running" in message
    assert "fedn-partial session start" in message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"round": 0}, "round must be at least 1, found 0"),
        ({"round": "3"}, "round must be of type int, found '3'"),
        ({"warmup": 1}, "warmup must be of type bool, found 1"),
        ({"codec": "int4"}, "codec must be one of float32, float16, int8, found 'int4'"),
        ({"session_id": "../x"}, "session_id must be made of [A-Za-z0-9]+, found '../x'"),
        ({"rond": 1}, "unknown key 'rond', did you mean 'round'?"),
        ({"training": {"batch_size": 0}}, "training: batch_size must be at least 1, found 0"),
        ({"training": None}, "training: expected keys and values, found None"),
        ({"training": "fast"}, "training: expected keys and values, found 'fast'"),
    ],
)
def test_instructions_are_refused_by_key_and_value(change, told):
    message = refusal(load_round_settings, {**SENT, **change}, Device(data="data"))
    assert message.startswith("settings from the server: ")
    assert told in message


def test_instructions_without_a_base_are_refused():
    sent = {name: value for name, value in SENT.items() if name != "base"}
    assert "key 'base' is missing" in refusal(load_round_settings, sent, Device(data="data"))


def test_a_device_with_an_optimizer_of_its_own_leaves_the_sessions_momentum():
    sent = {**SENT, "training": {"optimizer": "sgd", "momentum": 0.9}}
    training = load_round_settings(sent, Device(data="data", training={"optimizer": "adam"})).training
    assert (training.optimizer, training.momentum) == ("adam", 0.0)


def test_numbers_with_an_exponent_are_numbers_though_yaml_says_text(tmp_path):
    path = tmp_path / "case.yaml"
    path.write_text("name: a\nmodel: {name: lstm_har}\nselection: {selector: all}\ntraining: {learning_rate: 1e-3}\n")
    assert load_case(path).training.learning_rate == 0.001
