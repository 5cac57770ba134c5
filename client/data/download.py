"""Download official archives into a cache: resumed after failures and checked by SHA-256."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import http.client
import os
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fedn_partial.data.shard import sha256
from fedn_partial.errors import DataError
from fedn_partial.runtime.atomic import write_atomically

TIMEOUT = 30  # seconds without data
PAUSES = (1, 2, 4, 8)  # seconds before each retry; the download fails after as many attempts without new data
_CHUNK = 1 << 18
_BY_HAND = "download the file by hand, unpack it, and name its folder with --source"


@dataclass(frozen=True)
class Archive:
    """Official archive of a data set.

    Attributes
    ----------
    url : URL of the file.
    sha256 : SHA-256 of the file, or None if unknown, so that it must be downloaded by hand.
    members : prefixes of the names of the files to unpack.
    """

    url: str
    sha256: str | None
    members: tuple[str, ...] = ()


def cache() -> Path:
    """Return the folder of downloads, fedn-partial below $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedn-partial"


def obtain(name: str, archive: Archive) -> Path:
    """Return the folder in the cache with the official files of the data set `name`; download them if needed.

    Raises
    ------
    DataError : the files cannot be downloaded.
    """
    folder = cache() / name
    if folder.is_dir():
        return folder
    if archive.sha256 is None:
        raise DataError(
            f"{name} cannot be downloaded automatically, as its SHA-256 is unknown: download it from {archive.url}, "
            "unpack it, and name its folder with --source"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # wait for another process that downloads it
        if not folder.is_dir():
            path = fetch(archive.url, archive.sha256, folder.parent / PurePosixPath(archive.url).name)
            unpack(path, folder, archive.members)
            path.unlink()
    return folder


def fetch(url: str, checksum: str, target: Path) -> Path:
    """Download `url` to `target`, resuming an earlier attempt, and return `target`.

    An incomplete download is kept as `target`.part. The progress is shown on stderr.

    Raises
    ------
    DataError : the server refuses, the connection keeps failing, or the SHA-256 is not `checksum`.
    """
    part = target.with_name(f"{target.name}.part")
    part.touch()
    failures, largest = 0, part.stat().st_size
    while (problem := _attempt(url, part)) is not None:
        size = part.stat().st_size
        if size > largest:
            failures, largest = 0, size
        if failures == len(PAUSES):
            raise DataError(
                f"{url}: {problem}; {size / 1e6:.1f} MB are kept in {part}, run the command again to resume. "
                f"Or {_BY_HAND}"
            )
        print(f"{url}: {problem}; trying again", file=sys.stderr, flush=True)
        time.sleep(PAUSES[failures])
        failures += 1
    digest = sha256(part)
    if digest != checksum:
        part.unlink()
        raise DataError(
            f"{url}: the downloaded file has SHA-256 {digest}, expected {checksum}; it was deleted. Try again, or "
            f"{_BY_HAND}"
        )
    return part.rename(target)


def unpack(path: Path, folder: Path, members: tuple[str, ...]) -> None:
    """Unpack the files whose names start with one of `members` from a tar archive to `folder`, all or none."""
    unfinished = folder.with_name(f"{folder.name}.unpacking")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and member.name.startswith(members) and ".." not in PurePosixPath(member.name).parts:
                    target = unfinished / member.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with write_atomically(target, durable=False) as file:
                        shutil.copyfileobj(archive.extractfile(member), file)
        unfinished.rename(folder)
    finally:  # after an error or Ctrl-C; the folder is gone if it was renamed
        shutil.rmtree(unfinished, ignore_errors=True)


def _attempt(url: str, part: Path) -> str | None:
    """Append the missing bytes to `part`; return the problem, or None when it is complete (raises DataError)."""
    try:
        return _append(url, part)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None  # no bytes are missing; the checksum detects too many
        problem = f"the server answers {error.code} {error.reason}"
        if error.code < 500 and error.code not in (http.client.REQUEST_TIMEOUT, http.client.TOO_MANY_REQUESTS):
            raise DataError(f"{url}: {problem}; {_BY_HAND}") from None
        return problem
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"cannot write {part}: {error.strerror}; free some space and run the command again to resume"
            ) from None
        return str(error) or type(error).__name__


def _append(url: str, part: Path) -> str | None:
    """Append the missing bytes to `part`; return the problem if the connection ends early."""
    size = part.stat().st_size
    headers = {"Accept-Encoding": "identity", "User-Agent": "fedn-partial"}
    if size:
        headers["Range"] = f"bytes={size}-"
    with (
        urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response,
        part.open("ab") as file,
    ):
        if response.status != http.client.PARTIAL_CONTENT:  # the server sends the whole file
            size = 0
            file.truncate(0)
        length = response.headers.get("Content-Length")
        total = None if length is None else size + int(length)
        with _progress_bar(PurePosixPath(url).name, size, total) as advance:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                size += len(chunk)
                advance(len(chunk))
    if total is not None and size < total:
        return f"the connection ended after {size:,} of {total:,} bytes"
    return None


@contextlib.contextmanager
def _progress_bar(name: str, size: int, total: int | None):
    """Show a progress bar on stderr; yield the function that advances it by a number of bytes."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TaskProgressColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(name, completed=size, total=total)
        yield functools.partial(progress.advance, task)
