"""Files that are whole or not there: on a disk that is really full, after a real kill, and beside other writers."""

import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import WriteError, append_text, write_atomically, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def bytes_in_pieces(file):
    for _ in range(100):
        file.write(b"x" * 10_000)


def arrays(file):
    np.savez(file, a=np.zeros(200_000), b=np.ones(3))


def one_array(file):
    np.save(file, np.zeros(200_000))


@pytest.mark.parametrize("fill", [bytes_in_pieces, arrays, one_array])
@pytest.mark.parametrize("name", ["before", "fresh"])
def test_a_full_disk_changes_nothing_and_is_named(full_disk, fill, name):
    with pytest.raises(WriteError) as error, write_atomically(full_disk / name) as file:
        fill(file)
    assert str(full_disk / name) in str(error.value) and "free disk space" in str(error.value)
    assert isinstance(error.value, OSError) and isinstance(error.value, FednPartialError)
    assert names(full_disk) == ["before"] and (full_disk / "before").read_text() == "as it was"
    write_text(full_disk / name, "now")
    assert (full_disk / name).read_text() == "now"


def test_text_appended_to_a_file_on_a_full_disk_is_all_there_or_not_at_all(full_disk):
    path = full_disk / "rows"
    append_text(path, "one\n")
    with pytest.raises(WriteError, match=f"{path} cannot be written: No space left on device; free disk space"):
        append_text(path, "x" * 1_000_000 + "\n")
    append_text(path, "two\n")
    assert path.read_text() == "one\ntwo\n"


@contextmanager
def file_size_limit(size):
    """What a file may have: another way to fail in the middle of it, on any machine."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("fill", [bytes_in_pieces, arrays, one_array])
def test_a_file_that_grows_too_large_is_named(tmp_path, fill):
    path = tmp_path / "model.npz"
    with (
        file_size_limit(50_000),
        pytest.raises(WriteError, match=f"{path} cannot be written"),
        write_atomically(path) as f,
    ):
        fill(f)
    assert names(tmp_path) == []


WRITER = """
import sys
from fedn_partial.runtime.atomic import write_atomically
with write_atomically(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("half", flush=True)
    sys.stdin.read()
"""


def test_a_kill_leaves_the_old_file_and_the_next_writer_what_it_should(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout.readline() == "half\n"
        process.kill()
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new" and names(tmp_path) == ["file"]


def test_another_writer_waits_its_turn(tmp_path):
    path = tmp_path / "file"
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout.readline() == "half\n"
        thread = threading.Thread(target=write_text, args=(path, "second"))
        thread.start()
        time.sleep(0.1)
        assert thread.is_alive() and not path.exists()
        process.stdin.close()
        thread.join(timeout=30)
    assert path.read_text() == "second" and names(tmp_path) == ["file"]


def test_what_fails_for_another_reason_changes_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), write_atomically(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    with pytest.raises(FileNotFoundError) as error, write_atomically(path) as file:
        file.write((tmp_path / "another").read_bytes())
    assert error.value.filename == str(tmp_path / "another")  # not called a problem of the file that is written
    assert path.read_text() == "old" and names(tmp_path) == ["file"]


def test_permissions_and_links_stay(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    write_text(path, "secret", mode=0o600)
    link.symlink_to(path)
    write_text(link, "new")
    assert path.read_text() == "new" and link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    umask = os.umask(0o027)
    try:
        write_text(tmp_path / "usual", "")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "usual").stat().st_mode) == 0o640


def test_what_is_no_file_is_written_to_or_named(tmp_path):
    write_text("/dev/null", "nothing")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    for path in (tmp_path, tmp_path / "none" / "file", Path("/proc/none")):
        with pytest.raises(WriteError, match=f"{path} cannot be written"):
            write_text(path, "")
