"""Digest of the installed source code, printed by ``python -m fedn_partial.client.profiling.source``.

It identifies the version of a container's client exactly, also between releases.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import fedn_partial
import fedn_partial.client
from fedn_partial.seed_model.package import library_files


def digest() -> str:
    """Return a hash of the library's and the client's source files, equal for a checkout and its installation."""
    library, client = (Path(package.__file__).parent for package in (fedn_partial, fedn_partial.client))
    files = [(f"library/{path}", library / path) for path in library_files()]
    files += [(f"client/{path.relative_to(client)}", path) for path in client.rglob("*.py")]
    sha = hashlib.sha256()
    for name, path in sorted(files):
        sha.update(f"{name}\0".encode() + path.read_bytes())
    return sha.hexdigest()[:16]


if __name__ == "__main__":
    print(digest())
