"""The command data prepare."""

import json

import pytest
from click.testing import CliRunner

from fedn_partial.client.commands.cli import main
from fedn_partial.client.data import prepare as prepare_module
from fedn_partial.data.shard import open_shard, write_shard


def prepare(*words):
    return CliRunner().invoke(main, ["data", "prepare", *map(str, words)])


@pytest.fixture
def digits(tmp_path):
    pytest.importorskip("sklearn")
    return "digits", "--clients", 4, "--out", tmp_path / "shards"


def test_each_client_has_a_shard(digits, tmp_path):
    result = prepare(*digits, "--partition", "dirichlet:0.5", "--seed", 3)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards"]
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [f"client-{n}" for n in range(1, 5)]
    total = 0
    for number in range(1, 5):
        folder = tmp_path / "shards" / f"client-{number}"
        shard = open_shard(folder)
        description = json.loads((folder / "shard.json").read_text())
        assert (description["client"], description["clients"], description["seed"]) == (number, 4, 3)
        assert sum(description["train_by_class"].values()) == len(shard.y_train) == description["train"]
        total += len(shard.y_train) + len(shard.y_test)
    assert total == 1797


def test_the_same_seed_makes_the_same_shards(digits, tmp_path):
    checksums = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        assert prepare(*digits, "--out", tmp_path / name, "--seed", seed).exit_code == 0
        checksums.append(json.loads((tmp_path / name / "client-1" / "shard.json").read_text())["sha256"])
    assert checksums[0] == checksums[1] != checksums[2]


def test_shards_that_are_there_stay(digits, tmp_path):
    (tmp_path / "shards").mkdir()
    result = prepare(*digits)
    assert result.exit_code == 2
    assert f"{tmp_path / 'shards'} exists" in result.output


@pytest.mark.parametrize(
    ("error", "told"), [(OSError("No space left"), "No space left"), (KeyboardInterrupt(), "Aborted")]
)
def test_a_command_that_fails_or_is_stopped_in_the_middle_leaves_nothing(error, told, digits, tmp_path, monkeypatch):
    write, written = write_shard, []

    def write_one_and_fail(folder, *arguments):
        if written:
            raise error
        write(folder, *arguments)
        written.append(folder)

    monkeypatch.setattr(prepare_module, "write_shard", write_one_and_fail)
    result = prepare(*digits)
    assert result.exit_code != 0 and told in result.output
    assert written and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["mnist"], "'mnist' is unknown. Allowed are: digits, cifar10, imdb, casa"),
        (["digits", "--partition", "dirichlet"], "dirichlet:ALPHA with ALPHA above 0"),
        (["casa", "--source", "/nowhere"], "no homes in /nowhere"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(words, told, tmp_path):
    result = prepare(*words, "--clients", 2, "--out", tmp_path / "shards")
    assert result.exit_code == 2
    assert told in result.output and "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []
