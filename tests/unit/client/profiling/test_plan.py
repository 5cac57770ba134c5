"""The command plan."""

import functools
import json

import pytest
from click.testing import CliRunner

from fedn_partial.client.commands.cli import main
from fedn_partial.client.profiling import plan
from fedn_partial.client.profiling.plan import parse_bytes
from fedn_partial.errors import FednPartialError

CASE = """
name: x
model: {name: vgg16, width: 0.25}
selection: {selector: random, layers: 4, always_train: [dense]}
"""


@pytest.fixture(scope="module", autouse=True)
def imports_measured_once():
    """Measure the memory of TensorFlow's import once for all tests: each takes a process that imports it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(plan, "_import_bytes", functools.cache(plan._import_bytes))
        yield


@pytest.mark.parametrize(
    ("text", "size"), [("512MB", 512e6), ("1.5 GB", 1.5e9), ("400MiB", 400 * 2**20), ("2g", 2e9), ("1000B", 1000)]
)
def test_amounts_of_memory(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "512", "much", "-1MB", "0MB", "5XB", "MB"])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(FednPartialError, match="a unit, such as 512MB"):
        parse_bytes(text)


def test_plan_tells_what_fits(tmp_path):
    (tmp_path / "case.yaml").write_text(CASE)

    def plan(memory):
        answer = CliRunner().invoke(main, ["plan", str(tmp_path / "case.yaml"), "--memory", memory])
        assert answer.exit_code == 0, answer.output
        rows = [line.split() for line in answer.output.splitlines() if line[:6].strip().isdigit()]
        return answer.output, {int(row[0]): [float(cell.rstrip("%")) for cell in row[1:]] for row in rows}

    told, rows = plan("4GB")
    assert list(rows) == list(range(1, 15))
    assert "any 14 of the 14 layers fit" in told and "would select 14.0 layers" in told
    assert [rows[n][1] for n in rows] == sorted(rows[n][1] for n in rows)  # mean memory
    assert rows[14][3] == pytest.approx(3.7, abs=0.02) and rows[14][4:] == [100, 100]
    base = rows[14][1]
    told, rows = plan("100MB")
    assert "No layer fits into 100MB" in told and not any(row[-1] for row in rows.values())
    for memory, fits in ((base - 16, 0), (base + 4, 100)):  # the fork server's 36 MB are gone, 30 go to files
        told, rows = plan(f"{memory:.0f}MB")
        assert rows[1][-1] == 100 and rows[14][-1] == fits


def test_a_budget_of_the_session_holds_as_well(tmp_path):
    case = CASE.replace("selector: random, layers: 4", "selector: budget, upload_mb: 0.5")
    (tmp_path / "case.yaml").write_text(case)
    answer = CliRunner().invoke(main, ["plan", str(tmp_path / "case.yaml"), "--memory", "4GB"])
    assert "do not fit even alone, and are never trained: conv8" in answer.output, answer.output


def test_a_layer_that_the_model_does_not_have_is_named(tmp_path):
    case = CASE.replace("selector: random, layers: 4, always_train: [dense]", "selector: fixed, names: [nose]")
    (tmp_path / "case.yaml").write_text(case)
    answer = CliRunner().invoke(main, ["plan", str(tmp_path / "case.yaml"), "--memory", "4GB"])
    assert answer.exit_code == 2 and "no layer called 'nose'" in answer.output


def test_machines_are_told_the_same_as_people(tmp_path):
    (tmp_path / "case.yaml").write_text(CASE)
    command = ["plan", str(tmp_path / "case.yaml"), "--memory", "4GB"]
    told = json.loads(CliRunner().invoke(main, [*command, "--json"]).output)
    lines = [line.split() for line in CliRunner().invoke(main, command).output.splitlines()]
    for row in told["rows"]:
        cells = next(line for line in lines if line[:1] == [str(row["layers"])])
        assert cells[4:] == [f"{row['upload_mb']:.2f}", f"{row['operations']:.0%}", f"{row['fits']:.0%}"]
    assert told["budget_layers"] == 14 and told["never"] == []
