"""The command report, and what it needs and loads."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from reports.report_cases import UPLOADED

from fedn_partial.client.commands.cli import main


def test_the_command_prints_the_result_or_json(tmp_path, run):
    output = tmp_path / "report.html"
    result = CliRunner().invoke(main, ["report", str(run.path), "-o", str(output)])
    assert result.exit_code == 0 and "reached an accuracy of" in result.output
    assert "8 CSV files beside it" in result.output
    result = CliRunner().invoke(main, ["report", str(run.path), "-o", str(output), "--json"])
    answer = json.loads(result.stdout)
    assert answer["output"] == str(output) and all(Path(path).exists() for path in answer["csv"])
    assert answer["runs"][0]["upload_bytes"] == UPLOADED and answer["runs"][0]["accuracy"] == 0.8
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 2 and "is not the folder of a run or profile" in result.output


@pytest.mark.parametrize("name", ["jinja2", "matplotlib", "pandas", "scipy"])
def test_what_only_reports_and_experiments_need_comes_with_the_operators_install(name):
    required = importlib.metadata.requires("fedn-partial")
    assert [line for line in required if line.startswith(name)] == [f'{name}; extra == "local"']


def modules_after(code: str) -> set[str]:
    """Return the modules that a new Python has loaded after running `code`."""
    code = f"import sys\n{code}\nprint('modules:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("modules:")[2].split())


def test_a_report_needs_no_tensorflow():
    modules = modules_after("from fedn_partial.client.report.page import write_report")
    assert {"matplotlib", "pandas"} <= modules and not {"tensorflow", "keras", "matplotlib.pyplot"} & modules


OPERATORS = {"pandas", "scipy", "matplotlib", "jinja2"}


@pytest.mark.parametrize("arguments", [["--help"], ["report", "--help"], ["experiment", "--help"]])
def test_help_loads_nothing_that_only_reports_need(arguments):
    code = f"from fedn_partial.client.commands.cli import main\nmain({arguments!r}, standalone_mode=False)"
    assert not OPERATORS & modules_after(code)


def test_only_reports_charts_and_experiments_load_pandas():
    code = (
        "import importlib, pkgutil, fedn_partial, fedn_partial.client\n"
        "for package in (fedn_partial, fedn_partial.client):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        room, name = module.name.split('.')[2:3], module.name.split('.')[-1]\n"
        "        if room not in (['report'], ['charts'], ['experiments']) and name != '__main__':\n"
        "            importlib.import_module(module.name)\n"
    )
    modules = modules_after(code)
    assert {"fedn_partial.client.profiling.profile", "fedn_partial.client.commands.report"} <= modules
    assert not {"pandas", "scipy.stats"} & modules
