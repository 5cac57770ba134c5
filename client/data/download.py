"""Official archives from the network: checked by SHA-256, resumed where a try before ended, kept in a cache."""

from __future__ import annotations

import errno
import fcntl
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

TIMEOUT = 30  # seconds without a byte
PAUSES = (1, 2, 4, 8)  # seconds before the next try, as long as the tries bring nothing new; then it is given up
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Archive:
    """Where a data set can be had.

    Attributes
    ----------
    sha256 : of the file at `url`; None where none is known, so that only a person can download it.
    members : the beginnings of the names of the files in it that are read.
    """

    url: str
    sha256: str | None
    members: tuple[str, ...] = ()


def cache() -> Path:
    """Return the folder of downloads: fedn-partial in $XDG_CACHE_HOME or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedn-partial"


def obtain(name: str, archive: Archive) -> Path:
    """Return the folder in the cache with the official files of data set `name`, downloaded if they are not there.

    Raises
    ------
    DataError : it cannot be downloaded.
    """
    folder = cache() / name
    if folder.is_dir():
        return folder
    if archive.sha256 is None:
        raise DataError(
            f"{name} is not downloaded, as no SHA-256 is known to check it by: get it from {archive.url}, unpack it, "
            "and name its folder with --source"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process that wants it waits here
        if not folder.is_dir():
            path = fetch(archive.url, archive.sha256, folder.parent / PurePosixPath(archive.url).name)
            unpack(path, folder, archive.members)
            path.unlink()
    return folder


def fetch(url: str, checksum: str, target: Path) -> Path:
    """Download `url` to `target`, going on where a try before ended, and return `target`.

    What has come so far is kept in a file `target`.part; progress is told on stderr.

    Raises
    ------
    DataError : the server refuses, the connection keeps failing, or the SHA-256 is not `checksum`.
    """
    part = target.with_name(f"{target.name}.part")
    part.touch()
    idle = 0
    most = part.stat().st_size
    while (problem := _try(url, part)) is not None:
        if part.stat().st_size > most:
            idle, most = 0, part.stat().st_size
        if idle == len(PAUSES):
            raise DataError(
                f"{url}: {problem}; {_megabytes(part.stat().st_size)} are kept in {part}, the next try goes on from "
                "there. Or get the file by hand, unpack it, and name its folder with --source"
            )
        print(f"{url}: {problem}; trying again", file=sys.stderr, flush=True)
        time.sleep(PAUSES[idle])
        idle += 1
    found = sha256(part)
    if found != checksum:
        part.unlink()
        raise DataError(
            f"{url}: what came has SHA-256 {found}, expected {checksum}; it was deleted. Try again, or get the file by "
            "hand, unpack it, and name its folder with --source"
        )
    return part.rename(target)


def unpack(path: Path, folder: Path, members: tuple[str, ...]) -> None:
    """Unpack the files whose names begin with one of `members` from a tar archive to `folder`, all or none."""
    fresh = folder.with_name(f"{folder.name}.unpacking")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and member.name.startswith(members) and ".." not in PurePosixPath(member.name).parts:
                    target = fresh / member.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with write_atomically(target, durable=False) as file:
                        shutil.copyfileobj(archive.extractfile(member), file)
        fresh.rename(folder)
    finally:  # of a full disk, or Ctrl-C: once it is renamed there is nothing
        shutil.rmtree(fresh, ignore_errors=True)


def _try(url: str, part: Path) -> str | None:
    """Append what is missing to `part`; return what went wrong, or None if all has come (raises DataError)."""
    size = part.stat().st_size
    # A server that cannot send a part of the file sends all of it, with status 200.
    headers = {"Accept-Encoding": "identity", "User-Agent": "fedn-partial"}
    if size:
        headers["Range"] = f"bytes={size}-"
    try:
        with (
            urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response,
            part.open("ab") as file,
        ):
            if response.status != http.client.PARTIAL_CONTENT:
                size = 0
                file.truncate(0)
            length = response.headers.get("Content-Length")
            total = None if length is None else size + int(length)
            told = time.monotonic()
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                size += len(chunk)
                if time.monotonic() - told > 1:
                    told = time.monotonic()
                    _tell(url, size, total)
            _tell(url, size, total)
            if total is not None and size < total:
                return f"the connection ended after {size:,} of {total:,} bytes"
            return None
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None  # nothing is missing; if too much has come, the checksum tells
        if error.code < 500 and error.code not in (http.client.REQUEST_TIMEOUT, http.client.TOO_MANY_REQUESTS):
            raise DataError(
                f"{url}: the server answers {error.code} {error.reason}; get the file by hand, unpack it, and name its "
                "folder with --source"
            ) from None
        return f"the server answers {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"{part} cannot be written: {error.strerror}; free some space there, the next try goes on from here"
            ) from None
        return str(error) or type(error).__name__


def _tell(url: str, size: int, total: int | None) -> None:
    share = "" if not total else f" of {_megabytes(total)}, {size / total:.0%}"
    end = "\r" if sys.stderr.isatty() and size != total else "\n"
    print(f"{PurePosixPath(url).name}: {_megabytes(size)}{share}   ", end=end, file=sys.stderr, flush=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
