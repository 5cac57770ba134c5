"""The command line: help, errors, and the sources of the connection to FEDn."""

import http.server
import shlex
import subprocess
import sys
import threading

import click
import pytest
from click.testing import CliRunner
from paths import ROOT

from fedn_partial.client import simulation
from fedn_partial.client.commands import common
from fedn_partial.client.commands.cli import main
from fedn_partial.client.fedn_api.api import Api, ApiError, connection
from fedn_partial.client.network import network
from fedn_partial.errors import FednPartialError
from fedn_partial.settings.schema import SettingsError


def leaf_commands(group, words=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaf_commands(command, (*words, name))
        else:
            yield (*words, name)


COMMANDS = list(leaf_commands(main))
LOCAL = ("init", "run", "simulate", "experiment", "results", "plan", "profile")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_of_itself(words):
    result = CliRunner().invoke(main, [*words, "--help"])
    assert result.exit_code == 0
    assert f"fedn-partial {' '.join(words)}" in result.output.partition("Example:")[2]


@pytest.mark.parametrize(
    "words",
    [w for w in COMMANDS if w[0] not in ("data", "network") and w[-1] not in (*LOCAL, "build")],
    ids=" ".join,
)
def test_every_command_that_talks_to_fedn_can_be_told_where_it_is(words):
    output = CliRunner().invoke(main, [*words, "--help"]).output
    for option in ("--api-url", "--api-port", "--token", "--ca", "--insecure"):
        assert option in output


def test_help_answers_without_importing_anything_heavy():
    command = [sys.executable, "-X", "importtime", "-m", "fedn_partial.client", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"tensorflow", "keras", "fedn", "numpy", "grpc", "requests", "sqlalchemy"}


def test_a_wrong_case_ends_with_one_line_that_says_what_is_wrong(tmp_path):
    case = tmp_path / "case.yaml"
    case.write_text("name: x\nmodel: {name: vgg16, widht: 0.5}\nselection: {selector: all}\n")
    result = CliRunner().invoke(main, ["run", str(case)])
    assert result.exit_code == 2
    assert "case.yaml: model: unknown key 'widht', did you mean 'width'?" in result.output
    assert "Traceback" not in result.output and not (tmp_path / "runs").exists()


def test_a_local_run_needs_data(tmp_path):
    case = tmp_path / "case.yaml"
    case.write_text("name: x\nmodel: {name: lstm_har}\nselection: {selector: all}\n")
    result = CliRunner().invoke(main, ["run", str(case)])
    assert result.exit_code == 2 and "section 'data' is missing" in result.output


def test_a_file_that_is_no_package_is_not_uploaded(tmp_path):
    (tmp_path / "package.tgz").write_bytes(b"no archive")
    result = CliRunner().invoke(main, ["package", "upload", str(tmp_path / "package.tgz")])
    assert result.exit_code == 2 and "is no tar file" in result.output


def test_package_is_the_folder_as_fedn_would_pack_it(tmp_path):
    import tarfile

    from fedn.cli.package_cmd import create_tar_with_ignore

    folder = ROOT / "compute_package"
    CliRunner().invoke(main, ["package", "build", "-o", str(tmp_path / "ours.tgz")])
    create_tar_with_ignore(str(folder), str(tmp_path / "stock.tgz"))
    contents = []
    for name in ("ours.tgz", "stock.tgz"):
        with tarfile.open(tmp_path / name) as archive:
            files = {m.name: archive.extractfile(m).read() for m in archive.getmembers() if m.isfile()}
        files.pop(".fednignore", None)
        contents.append(files)
    assert contents[0] == contents[1]
    assert {"fedn.yaml", "startup.py", "train.py", "validate.py", "fedn_partial/runtime/task.py"} <= set(contents[0])


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Folder without a config file; no environment variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("FEDN_PARTIAL_API_URL", "FEDN_PARTIAL_API_PORT", "FEDN_PARTIAL_CA", "FEDN_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_options_win_over_environment_over_file_over_default(nowhere, monkeypatch):
    assert connection().base_url == "http://localhost:8092"
    (nowhere / "fedn-partial.yaml").write_text("api_url: https://from-file\napi_port: 1\ntoken: file\n")
    assert (connection().base_url, connection().token) == ("https://from-file:1", "file")
    monkeypatch.setenv("FEDN_PARTIAL_API_PORT", "2")
    monkeypatch.setenv("FEDN_AUTH_TOKEN", "environment")
    assert (connection().base_url, connection().token) == ("https://from-file:2", "environment")
    given = connection(api_url="from-option", api_port=3, token=None, insecure=False)
    assert (given.base_url, given.token) == ("https://from-option:3", "environment")


def test_an_unknown_key_in_the_config_file_is_named(nowhere):
    (nowhere / "fedn-partial.yaml").write_text("api_uri: https://somewhere\n")
    with pytest.raises(SettingsError, match="unknown key 'api_uri', did you mean 'api_url'"):
        connection()


ANSWERS = {
    401: (b"{}", "does not accept the token"),
    404: (b'{"message": "no such thing"}', "no such thing"),
    500: (b"<html>oops</html>", "failed with 500"),
    200: (b"<html>a web page</html>", "is not a FEDn controller"),
}


@pytest.mark.parametrize(("status", "answer"), ANSWERS.items(), ids=str)
def test_what_a_controller_answers_becomes_a_plain_message(status, answer):
    body, message = answer

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ApiError, match=message):
            Api(f"http://127.0.0.1:{server.server_port}").get("models/")
        server.shutdown()


def test_no_controller_is_a_plain_message():
    with pytest.raises(ApiError, match=r"no FEDn controller answers at http://127\.0\.0\.1:1 .*--api-url"):
        Api("http://127.0.0.1:1").get("models/")


STRANGE = "it's $HOME; a folder"


def printed_command(text):
    """Return the words of the command at the end of a message, as a shell would take them."""
    return shlex.split(text[text.rindex("fedn-partial ") :].splitlines()[0])


def test_a_run_prints_a_command_that_finds_its_folder(tmp_path, capsys):
    final = dict.fromkeys(("accuracy", "full_upload_bytes", "problem")) | {"upload_bytes": 0, "download_bytes": 0}
    common.conclude(final | {"failed_rounds": 0}, [], tmp_path / STRANGE, lambda event: None)
    assert printed_command(capsys.readouterr().out) == ["fedn-partial", "report", str(tmp_path / STRANGE)]


def test_an_interrupted_simulation_prints_a_command_that_goes_on(tmp_path, monkeypatch):
    def interrupted(case, folder, *arguments):
        (folder / "session.json").write_text("{}")  # as from the first round on
        raise KeyboardInterrupt

    monkeypatch.setattr(simulation, "simulate", interrupted)
    (tmp_path / STRANGE).mkdir()
    case = tmp_path / STRANGE / "case.yaml"
    case.write_text("{name: x, model: {name: vgg16}, selection: {selector: all}, data: {name: digits, clients: 3}}")
    words = ["simulate", str(case), "--source", STRANGE, "--runs", str(tmp_path / STRANGE)]
    result = CliRunner().invoke(main, words)
    command = printed_command(result.output)
    assert command[:-1] == ["fedn-partial", "simulate", str(case), "--source", STRANGE, "--resume"]
    assert command[-1].startswith(str(tmp_path / STRANGE / "x-"))


def test_a_package_that_is_missing_is_built_by_the_command_that_is_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = f"{STRANGE}.tgz"
    result = CliRunner().invoke(main, ["package", "upload", path, "--api-url", "http://127.0.0.1:1"])
    assert printed_command(result.output) == ["fedn-partial", "package", "build", "-o", path]
    assert CliRunner().invoke(main, printed_command(result.output)[1:]).exit_code == 0
    assert (tmp_path / path).exists()


def test_a_network_is_stopped_by_the_command_that_is_printed(tmp_path, monkeypatch):
    folder = tmp_path / STRANGE
    monkeypatch.setattr(network.Network, "up", lambda self, host=None: self.ports.update(controller=1))
    result = CliRunner().invoke(main, ["network", "up", "--folder", str(folder)])
    assert printed_command(result.output) == ["fedn-partial", "network", "down", "--folder", str(folder)]
    monkeypatch.undo()
    local = network.Network(folder)
    monkeypatch.setattr(local, "load", lambda: local.running.update(controller=None))
    with pytest.raises(FednPartialError) as error:
        local.up(host="0.0.0.0")
    assert printed_command(str(error.value)) == ["fedn-partial", "network", "down", "--folder", str(folder)]


def test_a_session_that_cannot_start_leaves_no_folder(tmp_path):
    words = ["session", "start", str(ROOT / "configs" / "quickstart.yaml"), "--runs", str(tmp_path / "runs")]
    result = CliRunner().invoke(main, [*words, "--api-url", "http://127.0.0.1:1"])
    assert result.exit_code == 2 and "no FEDn controller answers" in result.output
    assert not (tmp_path / "runs").exists()


def test_stopping_in_a_folder_without_a_network_changes_nothing(tmp_path):
    result = CliRunner().invoke(main, ["network", "down", "--folder", str(tmp_path / "none")])
    assert result.exit_code == 0 and result.output == f"{tmp_path / 'none'} has no network, nothing to stop\n"
    assert not (tmp_path / "none").exists()
