"""A digest of this package's installed source: ``python -m fedn_partial.client.profiling.source`` prints it.

A container's client and the command that starts it must be of one version, also between releases.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import fedn_partial
import fedn_partial.client
from fedn_partial.seed_model.package import library_files


def digest() -> str:
    """Return a hash of the library's and the client's source files: equal for a checkout and an installation of it."""
    library, client = (Path(package.__file__).parent for package in (fedn_partial, fedn_partial.client))
    named = [(f"library/{path}", library / path) for path in library_files()]
    named += [(f"client/{path.relative_to(client)}", path) for path in client.rglob("*.py")]
    sha = hashlib.sha256()
    for name, path in sorted(named):
        sha.update(f"{name}\0".encode() + path.read_bytes())
    return sha.hexdigest()[:16]


if __name__ == "__main__":
    print(digest())
