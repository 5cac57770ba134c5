"""A new project, as a new user starts it: from an empty folder, with the commands of its README."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedn_partial.client.commands.cli import main
from fedn_partial.client.records.load import load_run
from fedn_partial.settings.case import load_case
from fedn_partial.settings.client_file import load_device

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FILES = ["README.md", "case.yaml", "client.yaml", "my_data.py", "my_models.py"]
SERVER = ("run", "network", "session", "client")  # commands of the README that need FEDn


def init(folder, *, cwd):
    command = [sys.executable, "-m", "fedn_partial.client", "init", folder]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_a_project_has_its_name_and_is_read(tmp_path):
    done = init("my project", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "my project"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert not [path.name for path in folder.iterdir() if "PROJECT" in path.read_text()]
    assert load_case(folder / "case.yaml").name == "my-project"
    assert load_device(folder / "client.yaml").data == str(folder / "shards" / "client-1")
    assert (folder / "README.md").read_text().startswith("# my-project\n")
    assert len((folder / "README.md").read_text().splitlines()) <= 10


def test_the_current_folder_may_be_the_project_if_it_is_empty(tmp_path):
    (tmp_path / "here").mkdir()
    assert init(".", cwd=tmp_path / "here").returncode == 0
    assert load_case(tmp_path / "here" / "case.yaml").name == "here"


@pytest.mark.parametrize(
    ("make", "reason"),
    [(lambda path: path.mkdir() or (path / "notes").touch(), "exists and is not empty"), (Path.touch, "is a file")],
)
def test_what_is_there_is_left_alone(make, reason, tmp_path):
    make(tmp_path / "project")
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(main, ["init", str(tmp_path / "project")])
    assert result.exit_code == 2
    assert f"{tmp_path / 'project'} {reason}; name a new folder" in result.output
    assert sorted(tmp_path.rglob("*")) == before


def test_without_the_data_the_user_learns_where_they_are(tmp_path):
    assert init("project", cwd=tmp_path).returncode == 0
    command = ["simulate", str(tmp_path / "project" / "case.yaml"), "--source", str(tmp_path), "--runs", str(tmp_path)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert "train-images-idx3-ubyte.gz is missing: apt install dataset-fashion-mnist, or name its" in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["project"]


def readme_commands(folder: Path) -> list[list[str]]:
    lines = [line for line in (folder / "README.md").read_text().splitlines() if line.startswith("    ")]
    commands = [part.strip() for line in lines for part in line.partition("#")[0].split("&&")]
    return [shlex.split(command) for command in commands]


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="no Fashion-MNIST: apt install dataset-fashion-mnist")
def test_the_readmes_commands_run_in_a_new_project(tmp_path):
    assert init("project", cwd=tmp_path).returncode == 0
    folder = tmp_path / "project"
    commands = readme_commands(folder)
    assert {words[1] for words in commands} == {"simulate", "run", "package", "seed", "data"}
    for program, *words in commands:
        assert program == "fedn-partial"
        if words[0] in SERVER:
            continue
        command = [sys.executable, "-m", "fedn_partial.client", *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    assert {"package.tar.bz2", "seed.npz", "shards", "runs"} <= {path.name for path in folder.iterdir()}
    assert sorted(path.name for path in (folder / "shards").iterdir()) == ["client-1", "client-2", "client-3"]
    (run,) = (folder / "runs").glob("project-*")
    rows = load_run(run).rows
    assert len(rows) == 15 and all(row.outcome_text() == "merged" for row in rows)
    accuracy = [row.accuracy for row in rows if row.round == 5]
    assert min(accuracy) > 0.7  # of 0.1 by chance
