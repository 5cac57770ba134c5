"""The main job, 'fedn-partial run': to its end, and interrupted; nothing that it started is left."""

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml

CASE = {
    "name": "small",
    "model": {"name": "vgg16", "width": 0.0625, "batchnorm_momentum": 0.8},
    "selection": {"selector": "random", "layers": 4, "always_train": ["dense"]},
    "session": {"rounds": 2, "round_timeout": 40},
    "data": {"name": "digits", "clients": 2},
}


@pytest.fixture
def started(request, tmp_path):
    """The command, running, with its output in a file; of 2 rounds if a test says no other number."""
    session = {**CASE["session"], "rounds": getattr(request, "param", 2)}
    (tmp_path / "case.yaml").write_text(yaml.safe_dump({**CASE, "session": session}))
    command = [sys.executable, "-m", "fedn_partial.client", "run", "case.yaml", "--runs", "runs"]
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A shell's background job ignores SIGINT and hands that on; here Ctrl-C is to be heard.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    yield process
    process.kill()


def processes_below(folder) -> list[psutil.Process]:
    """Every process whose working folder is in `folder`, that is all that the command starts."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(folder / "runs")):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def wait_for_line(path, word: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and word not in path.read_text():
        time.sleep(0.2)
    assert word in path.read_text(), path.read_text()


def nothing_is_left(folder) -> bool:
    deadline = time.monotonic() + 5
    while processes_below(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not processes_below(folder)


def test_a_run_ends_with_a_table_its_two_files_and_nothing_left(started, tmp_path):
    assert started.wait(timeout=200) == 0, (tmp_path / "output").read_text()
    output = (tmp_path / "output").read_text()
    (folder,) = (tmp_path / "runs").iterdir()
    assert "round  2 of 2" in output and "client-2" in output and str(folder.relative_to(tmp_path)) in output
    assert len((folder / "rounds.jsonl").read_text().splitlines()) == 4
    assert json.loads((folder / "session.json").read_text())["final"]["problem"] is None
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize("started", [100], indirect=True)
def test_ctrl_c_stops_everything(started, tmp_path):
    wait_for_line(tmp_path / "output", "round  1 of 100")
    assert len(processes_below(tmp_path)) >= 6  # 4 of the network, 2 clients
    started.send_signal(signal.SIGINT)
    assert started.wait(timeout=30) == 1
    assert "interrupted; everything is stopped" in (tmp_path / "output").read_text()
    assert nothing_is_left(tmp_path)


def test_a_killed_command_leaves_nothing_either(started, tmp_path):
    wait_for_line(tmp_path / "output", "starting 2 clients")
    started.kill()
    started.wait()
    deadline = time.monotonic() + 30
    while processes_below(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not processes_below(tmp_path)
