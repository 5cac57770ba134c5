"""Atomic file writes, safe against full disks and kills. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fedn_partial.errors import FednPartialError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WriteError(FednPartialError, OSError):
    """A file that cannot be written. Also an OSError, for callers that can continue without the file."""


@contextlib.contextmanager
def write_atomically(path: str | Path, mode: int | None = None, durable: bool = True) -> Iterator[BinaryIO]:
    """Yield a binary file that replaces `path` on success; on failure `path` is unchanged.

    Parameters
    ----------
    mode : permissions; None for those of the existing file, or the default.
    durable : call fsync, so that the file survives a power cut.

    Raises
    ------
    WriteError : the file cannot be written.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))  # keep symbolic links
    new = target.with_name(f"{target.name}.new")
    with _naming(path, new):
        if target.exists() and not target.is_file():  # /dev/stdout, a pipe
            with target.open("wb") as file:
                yield file
            return
        file = _open_new(new)
        try:
            with file:
                if mode is None and target.exists():
                    mode = stat.S_IMODE(target.stat().st_mode)
                if mode is not None:
                    os.fchmod(file.fileno(), mode)
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
                os.replace(new, target)
        except BaseException:
            with contextlib.suppress(OSError):
                new.unlink()
            raise


def write_text(path: str | Path, text: str, mode: int | None = None, durable: bool = True) -> None:
    """Write `text` to `path` as UTF-8, see `write_atomically`."""
    with write_atomically(path, mode, durable) as file:
        file.write(text.encode())


def append_text(path: str | Path, text: str) -> None:
    """Append `text` to the file `path`, completely or not at all (raises WriteError)."""
    with _naming(Path(path), Path(path)), open(path, "ab", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        try:
            content = memoryview(text.encode())
            while content:
                content = content[file.write(content) :]
        except BaseException:
            file.truncate(length)
            raise


def _open_new(new: Path) -> BinaryIO:
    """Open the file `new` empty: overwrite one left by a killed process, wait for one that is being written."""
    while True:
        file = os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT, 0o666), "wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if new.exists() and os.path.samestat(os.fstat(file.fileno()), new.stat()):
                file.truncate(0)
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # renamed meanwhile


@contextlib.contextmanager
def _naming(path: Path, new: Path) -> Iterator[None]:
    """Turn an OSError in writing `path` or `new` into a WriteError that names `path`."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        if error.filename is not None and Path(error.filename) not in (path, new, Path(os.path.realpath(path))):
            raise
        message = f"{path} cannot be written: {error.strerror or error}"
        if error.errno in _FULL or (error.errno is None and "requested and" in str(error)):  # the latter by numpy
            message += "; free disk space, or write to another disk"
        failed = WriteError(message)
        failed.errno = error.errno
        raise failed from None
