"""What of this package's own code is installed: ``python -m fedn_partial.client.source`` prints a digest of it.

A container's client and the command that starts it must be of one version, also between releases.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import fedn_partial
import fedn_partial.client
from fedn_partial.seed_model.package import LIBRARY_FOLDERS


def digest() -> str:
    """Return a hash of the library's and the client's source files: equal for a checkout and an installation of it."""
    library, client = (Path(package.__file__).parent for package in (fedn_partial, fedn_partial.client))
    files = [path for folder in LIBRARY_FOLDERS for path in (library / folder).glob("*.py")]
    named = [(f"library/{path.relative_to(library)}", path) for path in files]
    named += [(f"client/{path.relative_to(client)}", path) for path in client.rglob("*.py")]
    sha = hashlib.sha256()
    for name, path in sorted(named):
        sha.update(f"{name}\0".encode() + path.read_bytes())
    return sha.hexdigest()[:16]


if __name__ == "__main__":
    print(digest())
