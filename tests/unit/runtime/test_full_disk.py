"""Everything that somebody reads is written by ``fedn_partial.runtime.atomic``; on a full disk it is left out."""

import ast
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from paths import ROOT

from fedn_partial.client.commands import cli
from fedn_partial.client.data import download
from fedn_partial.client.experiments import results
from fedn_partial.client.records import run_folder
from fedn_partial.client.simulation import checkpoint, session
from fedn_partial.data.shard import Shard, write_shard
from fedn_partial.device import oom_marker
from fedn_partial.device.planner import Calibration
from fedn_partial.exchange import encoding
from fedn_partial.runtime import refusal
from fedn_partial.runtime.atomic import WriteError
from fedn_partial.runtime.client_state import ClientState, Kind
from fedn_partial.seed_model.package import build_package
from fedn_partial.seed_model.seed import build_seed
from fedn_partial.settings.case import Case
from fedn_partial.submodel.layers import Tensor

CASE = Case(name="x", model={"name": "lstm_har", "classes": 4}, selection={"selector": "all"})
SHARD = Shard(*(np.zeros((9, 9), np.float32), np.zeros(9, np.int32)) * 2, ("a", "b"))


@pytest.fixture
def no_room(full_disk):
    """The same disk with 4 kB left: enough to begin a file."""
    filler = full_disk / "filler"
    stat = os.statvfs(full_disk)
    filler.write_bytes(b"x" * (stat.f_bavail * stat.f_frsize - 4096))
    return full_disk


WRITERS = {
    "seed model": ("seed.npz", lambda path: build_seed(CASE, path)),
    "compute package": ("package.tgz", build_package),
    "update": ("update.npz", lambda path: encoding.encode(str(path), [np.zeros(9000, np.float32)])),
    "shard": ("x_train.npy", lambda path: write_shard(path.parent, big(SHARD), "x")),
    "simulated model": ("model-1.npz", lambda path: session._write_arrays(path, [np.zeros(9000)])),
    "checkpoint": (
        "checkpoint.json",
        lambda path: checkpoint.write(path.parent, checkpoint.Checkpoint(failed=[1] * 9000)),
    ),
    "results": ("runs.jsonl", lambda path: results.write_text(path, "x" * 9000)),
    "run": ("session.json", lambda path: run_folder.RunFolder(path.parent, dataclasses.replace(CASE, name="x" * 9000))),
    "rows": ("rounds.jsonl", lambda path: write_rows(path)),
}


def big(shard):
    return dataclasses.replace(shard, x_train=np.zeros((9, 9000), np.float32))


def write_rows(path):
    folder = object.__new__(run_folder.RunFolder)  # without the files that come before
    folder.path, folder.rows = path.parent, []
    folder.write_rows([run_folder.Row(1, "1", "x" * 9000)])


@pytest.mark.parametrize("what", WRITERS)
def test_a_full_disk_is_named_and_no_part_of_the_file_is_left(no_room, what):
    name, write = WRITERS[what]
    with pytest.raises(WriteError, match=rf"{no_room / name} cannot be written: .*free disk space"):
        write(no_room / name)
    left = {path.name: path.stat().st_size for path in no_room.iterdir() if path.name not in ("before", "filler")}
    assert left in ({}, {name: 0} if what == "rows" else {})


def test_seed_build_says_where_there_is_no_room(no_room, tmp_path):
    config = tmp_path / "case.yaml"
    config.write_text(yaml.safe_dump({"name": "x", "model": CASE.model, "selection": CASE.selection}))
    done = CliRunner().invoke(cli.main, ["seed", "build", str(config), "-o", str(no_room / "seed.npz")])
    assert done.exit_code == 2 and not (no_room / "seed.npz").exists()
    assert f"fedn-partial: {no_room / 'seed.npz'} cannot be written: No space left on device; free disk" in done.output


def test_what_a_device_can_do_without_costs_no_round(no_room, monkeypatch):
    (no_room / "filler").write_bytes((no_room / "filler").read_bytes() + b"x" * 4096)
    state, tensor = ClientState(no_room / "state", "s", 1), Tensor(1, "kernel", (9000,), "float32")
    state.write(Kind.RESIDUAL, tensor, np.ones(9000, np.float32))
    state.commit()
    assert ClientState(no_room / "state", "s", 2).residuals([tensor])[0].load((9000,)) == 0
    assert Calibration(path=no_room / "calibration.json").save(memory_mb=5.0).memory_mb == 5
    monkeypatch.chdir(no_room)
    Path(".state").mkdir()
    oom_marker.write(oom_marker.OomMarker(1, 2.0, 3.0))
    assert sorted(path.name for path in no_room.rglob("*") if path.is_file()) == ["before", "filler"]


def test_a_refusal_on_a_full_disk_is_named(no_room):
    (no_room / "filler").write_bytes((no_room / "filler").read_bytes() + b"x" * 4096)
    with pytest.raises(OSError, match=str(no_room / "out")):
        refusal.write_refusal(str(no_room / "out"), "why")


def test_an_archive_that_does_not_fit_leaves_nothing_but_itself(no_room, tmp_path):
    (tmp_path / "big").write_bytes(os.urandom(500_000))
    subprocess.run(["tar", "-C", tmp_path, "-czf", tmp_path / "a.tgz", "big"], check=True)
    with pytest.raises(WriteError, match="big cannot be written"):
        download.unpack(tmp_path / "a.tgz", no_room / "set", ("big",))
    assert sorted(path.name for path in no_room.iterdir()) == ["before", "filler"]


def test_a_killed_seed_build_leaves_no_seed(tmp_path):
    code = (
        "import os, signal, sys, numpy\n"
        "from fedn_partial.seed_model import seed\n"
        "from fedn_partial.settings.case import Case\n"
        "save = numpy.savez\n"
        "def half(file, **arrays):\n"
        "    save(file, **{'0': arrays['0']})\n"
        "    file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "numpy.savez = half\n"
        "model = {'name': 'lstm_har', 'classes': 4}\n"
        "seed.build_seed(Case(name='x', model=model, selection={'selector': 'all'}), sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "seed.npz"])
    assert done.returncode == -9
    assert not (tmp_path / "seed.npz").exists()


# Who writes without it, and why that is right.
BY_HAND = {
    "compute_package/fedn_partial/runtime/atomic.py",  # itself
    "client/data/download.py",  # what has come so far is kept, and checked by its checksum
    "compute_package/fedn_partial/runtime/forkserver.py",  # the kernel's files
    "client/fleet/processes.py",  # logs
    "compute_package/fedn_partial/exchange/state.py",  # travels as text, by itself
    "compute_package/fedn_partial/exchange/merge_rules/spool.py",  # as well; its files are for one round
}


def writes(path):
    """Yield the lines of a module in which it opens a file to write to it."""
    for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
        method = isinstance(call.func, ast.Attribute)
        name = call.func.attr if method else getattr(call.func, "id", "")
        owner = ast.unparse(call.func.value) if method else ""
        modes = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
        if (method and name in ("write_text", "write_bytes") and owner != "atomic") or (
            name == "open" and owner != "archive" and {"w", "a", "x", "wb", "ab", "xb"} & set(map(str, modes))
        ):
            yield call.lineno


def test_nothing_else_writes_by_hand():
    modules = [path for folder in ("client", "compute_package", "seed_model") for path in (ROOT / folder).rglob("*.py")]
    names = {str(path.relative_to(ROOT)): list(writes(path)) for path in modules if ".state" not in path.parts}
    by_hand = {name: lines for name, lines in names.items() if lines and name not in BY_HAND}
    assert by_hand == {}
