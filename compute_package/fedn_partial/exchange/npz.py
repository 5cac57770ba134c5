"""Safe reading of npz files in the format of FEDn's numpyhelper.

A zip file of a few megabytes can inflate to terabytes. ``check_npz`` reads only the directory and the arrays' headers,
a few kilobytes; ``read_member`` then reads no more than was declared.
"""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedn_partial.errors import ModelError

DIRECTORY_LIMIT = 1 << 20  # bytes: 10,000 arrays and more
HEADER_LIMIT = 4096  # bytes of an npy file before its values; numpy writes 128
MAX_DIMENSIONS = 32  # the maximum of numpy 1
END_OF_ZIP = 22  # bytes of the record at the end of a zip file
ZIP64_LOCATOR = 20  # bytes of the record before it in a file of more than 4 GB


@dataclass(frozen=True)
class Header:
    """Dtype and shape declared in an array's header."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


def check_npz(file, limit_bytes: float, stored_only: bool = False) -> list[Header]:
    """Return the headers of the arrays "0" to "n-1" in an npz file, without reading their values.

    Parameters
    ----------
    file : path, or seekable binary file, whose position is restored.
    limit_bytes : maximum size of all arrays together; math.inf for none.
    stored_only : reject compressed arrays.

    Raises
    ------
    ModelError : not a zip file, a name out of order, compressed although `stored_only`, not an array of numbers, sizes
        that contradict each other, or more than `limit_bytes`. The message is a predicate of "the model".
    """
    with contextlib.ExitStack() as opened:
        if isinstance(file, (str, Path)):
            try:
                file = opened.enter_context(open(file, "rb"))
            except OSError as error:
                raise ModelError(f"cannot be read ({error.strerror})") from None
        position = file.tell()
        try:
            _check_directory_size(file)
            with zipfile.ZipFile(file) as archive:
                return _headers(archive, limit_bytes, stored_only)
        except ModelError:
            raise
        except Exception as error:  # zipfile raises many types for damaged files
            raise ModelError(f"is a damaged zip file ({error})") from None
        finally:
            file.seek(position)


def read_member(archive: zipfile.ZipFile, index: int) -> np.ndarray:
    """Return array "`index`" of an npz file that passed ``check_npz``.

    Raises
    ------
    ModelError : it inflates to more than it declares. Errors of zipfile, zlib and numpy: it is damaged.
    """
    member = archive.getinfo(f"{index}.npy")
    declared, member.file_size = member.file_size, member.file_size + 1  # zipfile stops at this size
    try:
        with archive.open(member) as values:
            array = np.lib.format.read_array(values, allow_pickle=False)
            if values.read(1):
                raise ModelError(
                    f"global model has array {index}, which inflates to more than the {declared:,} bytes it declares"
                )
    finally:
        member.file_size = declared
    return array


def _check_directory_size(file) -> None:
    """Raise ModelError unless `file` is a zip file with a small directory, which zipfile reads whole."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - END_OF_ZIP - ZIP64_LOCATOR, 0))
    tail = file.read()
    end = tail[-END_OF_ZIP:]
    if len(end) < END_OF_ZIP or not end.startswith(b"PK\x05\x06"):
        raise ModelError("is not a zip file, or its end is missing")
    directory = int.from_bytes(end[12:16], "little")
    if directory > DIRECTORY_LIMIT or tail.startswith(b"PK\x06\x07"):
        raise ModelError(f"is a zip file whose directory exceeds {DIRECTORY_LIMIT:,} bytes")


def _headers(archive: zipfile.ZipFile, limit_bytes: float, stored_only: bool) -> list[Header]:
    members = archive.infolist()
    names = {member.filename for member in members}
    for index in range(len(members)):
        if f"{index}.npy" not in names:
            raise ModelError(f"has {len(members)} arrays, but none named '{index}'")
    total = sum(member.file_size for member in members)
    if total > limit_bytes + HEADER_LIMIT * len(members):
        raise ModelError(f"has {total:,} bytes of arrays, more than {limit_bytes:,}")
    headers = [_header(archive, archive.getinfo(f"{index}.npy"), stored_only) for index in range(len(members))]
    total = sum(header.nbytes for header in headers)
    if total > limit_bytes:
        raise ModelError(f"has {total:,} bytes of arrays, more than {limit_bytes:,}")
    return headers


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, stored_only: bool) -> Header:
    subject = f"has array {member.filename.removesuffix('.npy')}, which"
    if member.compress_type == zipfile.ZIP_STORED:
        if member.compress_size != member.file_size:
            raise ModelError(f"{subject} is stored in {member.compress_size:,} bytes but declares {member.file_size:,}")
    elif stored_only or member.compress_type != zipfile.ZIP_DEFLATED:
        raise ModelError(
            f"{subject} is compressed; {'it must be stored' if stored_only else 'only deflate is supported'}"
        )
    with archive.open(member) as values:
        start = io.BytesIO(values.read(HEADER_LIMIT))
    try:
        version = np.lib.format.read_magic(start)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read(start, max_header_size=HEADER_LIMIT)
    except Exception:  # numpy evaluates the header as Python
        raise ModelError(f"{subject} is not in the npy format") from None
    if dtype.kind not in "biufc" or dtype.names or len(shape) > MAX_DIMENSIONS or any(extent < 0 for extent in shape):
        raise ModelError(f"{subject} holds {dtype} {shape}, expected an array of numbers")
    header = Header(dtype, shape)
    if header.nbytes + start.tell() != member.file_size:
        raise ModelError(
            f"{subject} declares {member.file_size:,} bytes, but {dtype} {shape} takes {header.nbytes + start.tell():,}"
        )
    return header
