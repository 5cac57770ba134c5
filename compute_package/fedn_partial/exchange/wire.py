"""Digests, checksums and text sanitising, shared by client and server."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np

FORMAT = 3  # of updates


def digest(arrays) -> str:
    """Return a hash of the values, shapes and dtypes of a global model (a list of arrays)."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()[:32]


def short_digest(full: str) -> int:
    """Return the first 48 bits of a ``digest`` as an int, which FEDn can store as a validation metric."""
    return int(full[:12], 16)


def checksum(data, start=0) -> int:
    """Return the CRC-32 of bytes or a contiguous array, continued from `start`."""
    return zlib.crc32(data, start)


def plain(text, limit=200):
    """Return a client's text sanitised for logs and terminals: one printable line of at most `limit` characters."""
    printable = "".join(character if character.isprintable() else " " for character in str(text))
    return " ".join(printable.split())[:limit]
