"""npz files as FEDn's numpyhelper writes them, checked before an array is read.

A zip file of some megabytes can hold terabytes. ``check_npz`` reads the directory and the arrays' headers, a few
kilobytes whatever the file declares; ``read_member`` then reads no more than was declared.
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
MAX_DIMENSIONS = 32  # of an array; numpy 1 takes no more
END_OF_ZIP = 22  # bytes of the record at the end of a zip file
ZIP64_LOCATOR = 20  # bytes of the record before it in a file of more than 4 GB


@dataclass(frozen=True)
class Header:
    """Dtype and shape that an array has by its header."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


def check_npz(file, limit_bytes: float, stored_only: bool = False) -> list[Header]:
    """Return the headers of the arrays "0" to "n-1" in an npz file, having read nothing else of it.

    Parameters
    ----------
    file : path, or binary file that can seek; its position stays.
    limit_bytes : of all arrays together; math.inf for none.
    stored_only : refuse compressed arrays.

    Raises
    ------
    ModelError : not a zip file, a name out of order, compressed although `stored_only`, not an array of numbers, sizes
        that contradict each other, or more than `limit_bytes`. The message goes on from "the model ".
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
        except Exception as error:  # zipfile has many ways to say that a file is damaged
            raise ModelError(f"is a damaged zip file ({error})") from None
        finally:
            file.seek(position)


def read_member(archive: zipfile.ZipFile, index: int) -> np.ndarray:
    """Return array "`index`" of an npz file that ``check_npz`` has passed.

    Raises
    ------
    ModelError : it inflates to more than it declares. Others of zipfile, zlib and numpy: it is damaged.
    """
    member = archive.getinfo(f"{index}.npy")
    declared, member.file_size = member.file_size, member.file_size + 1  # zipfile stops at the size that it knows
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
    """Raise ModelError unless `file` ends as a zip file with a small directory: zipfile would read all of it."""
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
            raise ModelError(f"has {len(members)} arrays, but none is named '{index}'")
    total = sum(member.file_size for member in members)
    if total > limit_bytes + HEADER_LIMIT * len(members):
        raise ModelError(f"has {total:,} bytes of arrays, more than {limit_bytes:,}")
    headers = [_header(archive, archive.getinfo(f"{index}.npy"), stored_only) for index in range(len(members))]
    total = sum(header.nbytes for header in headers)
    if total > limit_bytes:
        raise ModelError(f"has {total:,} bytes of arrays, more than {limit_bytes:,}")
    return headers


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, stored_only: bool) -> Header:
    what = f"has array {member.filename.removesuffix('.npy')}, which"
    if member.compress_type == zipfile.ZIP_STORED:
        if member.compress_size != member.file_size:
            raise ModelError(f"{what} is stored in {member.compress_size:,} bytes but declares {member.file_size:,}")
    elif stored_only or member.compress_type != zipfile.ZIP_DEFLATED:
        raise ModelError(f"{what} is compressed; {'it must be stored' if stored_only else 'only deflate is taken'}")
    with archive.open(member) as values:
        start = io.BytesIO(values.read(HEADER_LIMIT))
    try:
        version = np.lib.format.read_magic(start)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read(start, max_header_size=HEADER_LIMIT)
    except Exception:  # numpy evaluates the header as Python
        raise ModelError(f"{what} is not in the npy format") from None
    if dtype.kind not in "biufc" or dtype.names or len(shape) > MAX_DIMENSIONS or any(extent < 0 for extent in shape):
        raise ModelError(f"{what} holds {dtype} {shape}, no array of numbers")
    header = Header(dtype, shape)
    if header.nbytes + start.tell() != member.file_size:
        raise ModelError(
            f"{what} declares {member.file_size:,} bytes, but {dtype} {shape} takes {header.nbytes + start.tell():,}"
        )
    return header
