"""The state of a client is that of the round before, or that after a round whose update exists; nothing in between."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from fedn_partial.exchange import encoding
from fedn_partial.runtime.client_state import ClientState, Kind, remove_earlier_layout
from fedn_partial.submodel.layers import Tensor

KERNELS = [Tensor(index, f"{index}/kernel", (30, 20 + index), "float32") for index in range(3)]
MEAN = Tensor(7, "bn/moving_mean", (5,), "float32")


def values(seed, tensors=KERNELS):
    random = np.random.default_rng(seed)
    return [random.standard_normal(tensor.shape, dtype=np.float32) for tensor in tensors]


def files(folder) -> dict[str, bytes]:
    """All files below `folder`."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def encode(folder, number, tensors=KERNELS, session="s1"):
    """Encode the update of a round with int8, without a commit; return the client's state and the update."""
    state = ClientState(folder / "state", session, number)
    state.begin()
    zeros = [np.zeros(tensor.shape, np.float32) for tensor in tensors]
    update = folder / "update"
    encoding.encode(str(update), values(number, tensors), "int8", zeros, state.residuals(tensors))
    return state, update.read_bytes()


def play(folder, number, tensors=KERNELS, session="s1") -> bytes:
    state, update = encode(folder, number, tensors, session)
    state.commit()
    return update


def residuals(folder, number, session="s1"):
    """Return the residuals at the beginning of a round, None for those missing."""
    state = ClientState(folder / "state", session, number)
    return [state.read(Kind.RESIDUAL, tensor) for tensor in KERNELS]


def test_a_round_replaces_what_it_wrote_and_keeps_the_rest(tmp_path):
    play(tmp_path, 1)
    first = residuals(tmp_path, 2)
    assert all(0 < np.abs(array).max() < 0.05 for array in first)
    play(tmp_path, 4, KERNELS[:1])
    second = residuals(tmp_path, 5)
    assert not np.array_equal(second[0], first[0])
    for old, new in zip(first[1:], second[1:], strict=True):
        np.testing.assert_array_equal(new, old)
    state = tmp_path / "state" / "s1"
    assert (state / "4/residual-1.npy").samefile(state / "1/residual-1.npy")  # takes no space
    play(tmp_path, 5)
    assert sorted(path.name for path in state.iterdir()) == ["4", "5"]


def test_where_links_fail_arrays_are_copied(tmp_path, monkeypatch):
    play(tmp_path, 1)
    first = residuals(tmp_path, 2)
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "Operation not permitted")))
    play(tmp_path, 2, KERNELS[:1])
    np.testing.assert_array_equal(residuals(tmp_path, 3)[2], first[2])
    assert not (tmp_path / "state/s1/2/residual-2.npy").samefile(tmp_path / "state/s1/1/residual-2.npy")


def test_a_round_without_commit_leaves_nothing(tmp_path):
    play(tmp_path, 1)
    before = files(tmp_path / "state")
    state, _ = encode(tmp_path, 2)
    assert files(tmp_path / "state").keys() > before.keys()
    state.discard()
    state.commit()
    assert files(tmp_path / "state") == before


def test_a_repeated_round_starts_from_the_state_before_it(tmp_path):
    play(tmp_path, 1)
    update, state = play(tmp_path, 2), files(tmp_path / "state")
    assert play(tmp_path, 2) == update and files(tmp_path / "state") == state
    encode(tmp_path, 2)  # this time it fails: its earlier attempt has not been merged
    np.testing.assert_array_equal(residuals(tmp_path, 3)[0], residuals(tmp_path, 2)[0])
    assert play(tmp_path, 2) == update


def test_the_newest_generation_counts_and_the_order_is_not_alphabetic(tmp_path):
    for number in (9, 10):
        play(tmp_path, number)
    shutil.copytree(tmp_path / "state/s1/9", tmp_path / "state/s1/8")  # a process killed before it removed this one
    ten = np.load(tmp_path / "state/s1/10/residual-0.npy")
    np.testing.assert_array_equal(residuals(tmp_path, 11)[0], ten)
    (tmp_path / "state/s1/11.new").mkdir()
    np.testing.assert_array_equal(residuals(tmp_path, 12)[0], ten)
    ClientState(tmp_path / "state", "s1", 12).begin()
    assert [path.name for path in (tmp_path / "state/s1").iterdir()] == ["10"]


def test_the_state_of_another_session_goes_and_foreign_files_stay(tmp_path):
    play(tmp_path, 1)
    (tmp_path / "state/mine").mkdir()
    (tmp_path / "state/mine/letter.txt").write_text("not a client's state")
    (tmp_path / "state/calibration-f.json").write_text("{}")
    assert residuals(tmp_path, 2, "s2") == [None] * 3
    assert residuals(tmp_path, 2)[0] is not None  # reading removes nothing
    (tmp_path / "undisturbed").mkdir()
    assert play(tmp_path, 1, session="s2") == play(tmp_path / "undisturbed", 1, session="s2")
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["calibration-f.json", "mine", "s2"]
    assert (tmp_path / "state/mine/letter.txt").exists()


def test_files_of_earlier_versions_are_removed(tmp_path):
    for name in ("residuals/s1/1.npy", "residuals/notes.txt", "statistics/s1.npy", "data/x_train.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    remove_earlier_layout(tmp_path)
    assert sorted(files(tmp_path)) == ["data/x_train.npy", "residuals/notes.txt"]
    assert not (tmp_path / "statistics").exists() and not (tmp_path / "residuals/s1").exists()


def truncated(path):
    path.write_bytes(path.read_bytes()[:-4])


DAMAGES = {
    "truncated": truncated,
    "empty": lambda path: path.write_bytes(b""),
    "a zip file": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
    "header": lambda path: path.write_bytes(path.read_bytes().replace(b"'shape'", b"'sh(pe'")),
    "other shape": lambda path: np.save(path, np.ones((20, 30), np.float32)),
    "huge": lambda path: path.write_bytes(path.read_bytes().replace(b"(30, 20)", b"(10**12)")),
    "float64": lambda path: np.save(path, np.ones((30, 20))),
    "Fortran order": lambda path: np.save(path, np.ones((20, 30), np.float32).T),
    "not finite": lambda path: np.save(path, np.full((30, 20), np.nan, np.float32)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_array_counts_as_absent_and_the_others_count(tmp_path, damage):
    play(tmp_path, 1)
    others = residuals(tmp_path, 2)[1:]
    DAMAGES[damage](tmp_path / "state/s1/1/residual-0.npy")
    first, *rest = residuals(tmp_path, 2)
    assert first is None
    for array, expected in zip(rest, others, strict=True):
        np.testing.assert_array_equal(array, expected)
    play(tmp_path, 2)
    assert residuals(tmp_path, 3)[0] is not None
    play(tmp_path, 3, KERNELS[1:])  # keeps what it did not write, even if it is damaged
    assert residuals(tmp_path, 4)[0] is not None


def test_a_damaged_folder_costs_no_round(tmp_path, capfd):
    (tmp_path / "state").write_text("in the way")
    update = play(tmp_path, 1)
    assert "cannot save the client's state" in capfd.readouterr().err
    (tmp_path / "state").unlink()
    assert play(tmp_path, 1) == update
    (tmp_path / "state/s1/2.new").write_text("in the way")
    (tmp_path / "state/s1/3").write_text("in the way")
    play(tmp_path, 3)
    assert [array is None for array in residuals(tmp_path, 4)] in ([True] * 3, [False] * 3)


# A full disk


def fill(disk, left):
    """Leave `left` bytes of the disk."""
    stat = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(stat.f_bavail * stat.f_frsize - left))


@pytest.mark.parametrize("left", [0, 4096, 8192])
def test_on_a_full_disk_no_residual_is_sent_twice_and_the_rest_stays(full_disk, tmp_path, left, capfd):
    state = ClientState(full_disk / "state", "s1", 1)
    for tensor, array in zip(KERNELS, values(1), strict=True):
        state.write(Kind.RESIDUAL, tensor, array)
    state.write(Kind.OWN, MEAN, np.ones(5, np.float32))
    state.commit()
    fill(full_disk, left)
    state = ClientState(full_disk / "state", "s1", 2)
    state.begin()
    state.write(Kind.OWN, MEAN, np.zeros(5, np.float32))
    for tensor in KERNELS[:2]:
        state.write(Kind.RESIDUAL, tensor, np.ones(tensor.shape, np.float32))
        assert state.read(Kind.RESIDUAL, KERNELS[1]) is not None  # until the update exists
    state.commit()
    assert "cannot save the client's state" in capfd.readouterr().err
    (full_disk / "filler").unlink()
    after = ClientState(full_disk / "state", "s1", 3)
    assert [after.read(Kind.RESIDUAL, tensor) is None for tensor in KERNELS] == [True, True, False]
    np.testing.assert_array_equal(after.read(Kind.OWN, MEAN), np.ones(5))  # all old, none new
    assert sorted(path.name for path in (full_disk / "state/s1").iterdir()) == ["1"]


def test_on_a_full_disk_a_round_that_fails_keeps_the_state(full_disk):
    play(full_disk, 1, KERNELS[:1])
    before = files(full_disk / "state")
    fill(full_disk, 0)
    state = ClientState(full_disk / "state", "s1", 2)
    state.begin()
    state.write(Kind.RESIDUAL, KERNELS[0], np.ones(KERNELS[0].shape, np.float32))
    state.discard()
    assert files(full_disk / "state") == before


# A killed process

ENCODES = """
import pathlib, sys, time
sys.path.insert(0, sys.argv[1])
import test_client_state as t

write = t.ClientState.write

def slow(state, kind, tensor, array):
    write(state, kind, tensor, array)
    if tensor.index == 1:
        print("second kernel", flush=True)
        time.sleep(600)

t.ClientState.write = slow
t.encode(pathlib.Path(sys.argv[2]), 2)
"""


def test_a_process_killed_while_it_encodes_leaves_the_state_before(tmp_path):
    play(tmp_path, 1)
    before = files(tmp_path / "state")
    shutil.copytree(tmp_path, tmp_path / "undisturbed")
    expected = play(tmp_path / "undisturbed", 2)
    process = subprocess.Popen(
        [sys.executable, "-c", ENCODES, os.path.dirname(__file__), tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "second kernel\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    after = files(tmp_path / "state")
    assert {name for name in after if name not in before} == {f"s1/2.new/residual-{index}.npy" for index in (0, 1)}
    assert {name: after[name] for name in before} == before
    assert play(tmp_path, 2) == expected
    assert files(tmp_path / "state") == files(tmp_path / "undisturbed/state")
