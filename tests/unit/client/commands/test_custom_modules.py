"""Every command takes a folder of custom modules: the examples of docs/ARCHITECTURE.md run as they are."""

import json
import re
import shutil
import tarfile

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from paths import ROOT

from fedn_partial.client import simulation
from fedn_partial.client.commands.cli import main
from fedn_partial.client.records.load import load_run
from fedn_partial.client.records.run_folder import RunFolder
from fedn_partial.custom import modules
from fedn_partial.errors import FednPartialError
from fedn_partial.settings.case import load_case

EXAMPLES = ROOT / "docs" / "examples"
ARCHITECTURE = (ROOT / "docs" / "ARCHITECTURE.md").read_text()


@pytest.fixture(autouse=True)
def no_folder_stays_in_use():
    yield
    modules.use(None)


@pytest.fixture
def project(tmp_path):
    """The examples in one folder, and beside it the case, which does not name the folder."""
    shutil.copytree(EXAMPLES, tmp_path / "mine", ignore=shutil.ignore_patterns("case.yaml", "__pycache__", "runs"))
    case = yaml.safe_load((EXAMPLES / "case.yaml").read_text())
    del case["package"]
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(case))
    return tmp_path


def invoke(*words, code=0):
    result = CliRunner().invoke(main, [*map(str, words)])
    assert result.exit_code == code, result.output
    return result.output


def test_the_examples_are_simulated(tmp_path):
    pytest.importorskip("sklearn")
    events = invoke("simulate", EXAMPLES / "case.yaml", "--runs", tmp_path, "--json")
    assert "end" in events
    (folder,) = tmp_path.glob("examples-*")
    rows = load_run(folder).rows
    layers = ["conv2d", "conv2d_1", "dense"]
    assert {row.round: row.layers for row in rows} == {1: layers[1::2], 2: layers[0::2], 3: layers[1::2]}
    assert [row.outcome_text() for row in rows] == ["merged"] * 9
    settings = json.loads((folder / "session.json").read_text())["settings"]
    assert settings["merge"] == "my_rules:SquareRoot" and settings["codec"] == "my_codecs:TopK"
    assert settings["objective"] == {"name": "my_terms:ClipNorm", "norm": 0.5}
    for row in rows:  # codec TopK sends a tenth of the kernels, 8 bytes each
        assert row.upload_bytes < 0.4 * 4 * row.trained_params + 3_000


def test_plan_and_seed_take_the_folder(project):
    output = invoke("plan", project / "case.yaml", "--memory", "1GB", "--with", project / "mine")
    assert "my_models:small_cnn, 3 layers" in output and "codec my_codecs:TopK" in output
    invoke("seed", "build", project / "case.yaml", "--with", project / "mine", "-o", project / "seed.npz")
    with np.load(project / "seed.npz") as archive:
        assert archive["0"].shape == (3, 3, 1, 8)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("os:system", "data: name: module 'os' is not allowed"),
        ("my_data:np", "has no function with the annotation '-> DataSet' called 'np'"),
    ],
)
def test_a_name_that_is_no_reader_is_refused_by_every_command_that_reads_the_case(project, name, error):
    case = yaml.safe_load((project / "case.yaml").read_text())
    (project / "case.yaml").write_text(yaml.safe_dump({**case, "data": {**case["data"], "name": name}}))
    output = invoke("plan", project / "case.yaml", "--memory", "1GB", "--with", project / "mine", code=2)
    assert error in output


def test_data_prepare_takes_the_folder(project):
    pytest.importorskip("sklearn")
    words = ["data", "prepare", "my_data:small_digits", "--clients", 2, "--out", project / "shards"]
    assert "scikit-learn digits, 8x8" in invoke(*words, "--with", project / "mine")
    description = json.loads((project / "shards" / "client-1" / "shard.json").read_text())
    assert description["data_set"] == "my_data:small_digits"


def test_package_build_ships_the_folder(project):
    output = invoke("package", "build", "-o", project / "package.tgz", "--with", project / "mine")
    assert "custom modules: my_codecs, my_data, my_models, my_rules, my_selectors, my_terms" in output
    with tarfile.open(project / "package.tgz") as archive:
        shipped = {name for name in archive.getnames() if name.startswith("custom_modules/")}
    assert shipped == {f"custom_modules/{path.name}" for path in EXAMPLES.glob("*.py")} | {
        "custom_modules/manifest.json"
    }


@pytest.mark.parametrize(
    "words",
    [
        ["run", "case.yaml"],
        ["simulate", "case.yaml"],
        ["plan", "case.yaml", "--memory", "1GB"],
        ["profile", "case.yaml", "--flavours", "ssc.small", "--layers", "1"],
        ["seed", "build", "case.yaml"],
        ["session", "start", "case.yaml", "--api-url", "http://127.0.0.1:9"],
        ["data", "prepare", "my_data:small_digits", "--clients", "2", "--out", "shards"],
    ],
    ids=" ".join,
)
def test_without_the_folder_the_name_is_refused_and_nothing_is_left(words, project, monkeypatch):
    monkeypatch.chdir(project)
    output = invoke(*words, code=2)
    assert "is not allowed: there are no custom modules. Set their folder with --with FOLDER" in output
    assert sorted(path.name for path in project.iterdir()) == ["case.yaml", "mine"]


def test_an_error_in_the_users_code_is_no_traceback(project):
    (project / "mine" / "my_models.py").write_text("import keras\n\n\nraise OSError('no weights here')\n")
    output = invoke("plan", project / "case.yaml", "--memory", "1GB", "--with", project / "mine", code=2)
    assert output == f"fedn-partial: {project / 'mine' / 'my_models.py'}, line 4: OSError: no weights here\n"


BAD_READERS = {
    "def small_digits() -> DataSet:\n    return 3\n": "small_digits returned int, expected a DataSet",
    "def small_digits(folder) -> DataSet:\n    return 3\n": "has no default folder; name the folder with",
    "def small_digits() -> DataSet:\n    return DataSet('x', 'a', Examples(np.zeros((2, 3)), np.zeros(2)), None)\n": (
        "train: x is float64 and y float64; x must be uint8 (images), float32 (features) or int32 (words), y int32"
    ),
    "def small_digits() -> DataSet:\n    return np.zeros(3)[4]\n": "line 4: IndexError: index 4 is out of bounds",
    "def small_digits() -> int:\n    return 3\n": "is not a function with the annotation '-> DataSet'",
}


@pytest.mark.parametrize("source", BAD_READERS)
def test_a_wrong_reader_is_refused_at_its_line(source, project):
    head = "import numpy as np\nfrom fedn_partial.client.data.data_set import DataSet, Examples\n"
    (project / "mine" / "my_data.py").write_text(head + source)
    words = ["data", "prepare", "my_data:small_digits", "--clients", 2, "--out", project / "shards"]
    output = invoke(*words, "--with", project / "mine", code=2)
    assert BAD_READERS[source] in output and "Traceback" not in output


def test_an_edited_reader_is_read_anew(project):
    """The simulator keeps the clients' data; those of a reader that was edited are others."""
    pytest.importorskip("sklearn")
    case = load_case(project / "case.yaml", project / "mine")
    first = simulation.prepared(case, project / "data", None)
    assert simulation.prepared(case, project / "data", None) == first
    assert first.name.startswith("my_data-small_digits-")
    reader = project / "mine" / "my_data.py"
    reader.write_text(reader.read_text().replace('8x8"', '8 by 8"'))
    case = load_case(project / "case.yaml", project / "mine")
    again = simulation.prepared(case, project / "data", None)
    assert again != first
    assert json.loads((again / "client-1" / "shard.json").read_text())["source"] == "scikit-learn digits, 8 by 8"


def test_a_run_does_not_go_on_with_edited_modules(project):
    case = load_case(project / "case.yaml", project / "mine")
    RunFolder(project / "run", case, simulated=True, data_digest="d")
    assert simulation._previous_session(project / "run", case, "d")["name"] == "examples"
    rule = project / "mine" / "my_rules.py"
    rule.write_text(rule.read_text().replace("return 1.0", "return 0.5"))
    with pytest.raises(FednPartialError, match=r"run contains a run with other settings \(custom modules\)"):
        simulation._previous_session(project / "run", load_case(project / "case.yaml", project / "mine"), "d")


# docs/ARCHITECTURE.md


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_shown_whole(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 30
    assert text.strip() in ARCHITECTURE


def test_the_page_shows_the_case_of_the_examples():
    case = (EXAMPLES / "case.yaml").read_text()
    assert re.sub(r"(?m)^#.*\n", "", case).strip() in ARCHITECTURE
