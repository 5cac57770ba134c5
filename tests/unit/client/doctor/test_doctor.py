"""The command 'fedn-partial doctor' as a whole."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from fedn_servers.doctor_server import ROLES, write_test_shard

from fedn_partial.client.commands.cli import main
from fedn_partial.client.doctor import device_checks, doctor
from fedn_partial.client.doctor.check import NOT_CHECKED, OK, PROBLEM


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
