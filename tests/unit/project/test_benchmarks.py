"""Every benchmark still runs: at its smallest size, whose figures mean nothing."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from cgroups import MemoryGroup, NoControlGroup
from paths import ROOT

TESTS = ROOT / "tests"
MAKEFILE = TESTS.parent / "Makefile"
FIRST_CELLS = {  # of the last row of the script's table
    "accuracy.py": "int8, model float16",
    "limits.py": "| all 14 | 640 |",
    "memory.py": "    3 ",
    "merge.py": "| ours, checks and all |",
    "robust.py": "| median |",
    "rounds.py": "| 6 |",
}
NEED_CONTROL_GROUPS = ("limits.py", "rounds.py")


def run(script):
    command = [sys.executable, TESTS / "benchmarks" / script, "--smallest"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS / "harness")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def running():
    """Each script, two at a time: they wait for imports most of the time."""
    with ThreadPoolExecutor(2) as pool:
        yield {script: pool.submit(run, script) for script in FIRST_CELLS}


@pytest.mark.parametrize("script", FIRST_CELLS)
def test_the_benchmark_prints_its_table(script, running):
    if script in NEED_CONTROL_GROUPS:
        try:
            with MemoryGroup(10**9):
                pass
        except NoControlGroup as reason:
            pytest.skip(str(reason))
    done = running[script].result()
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(FIRST_CELLS[script])]
    assert len(rows) == 1 and "nan" not in rows[0], done.stdout


def test_make_bench_runs_every_script():
    scripts = {path.name for path in (TESTS / "benchmarks").glob("*.py")} - {"size.py"}
    assert scripts == set(FIRST_CELLS)
    assert all(f"tests/benchmarks/{script}" in MAKEFILE.read_text() for script in scripts)
