"""Refusal of a training request: an empty update with a reason.

A FEDn 0.33 client crashes and leaves the fleet when its training fails without a result. A device that cannot train
therefore uploads an update without layers, which the server functions skip and log with its reason. Standard library
only, so that it works when TensorFlow or the process that imported it fails.
"""

from __future__ import annotations

import io
import json
import zipfile

from fedn_partial.runtime.atomic import write_atomically, write_text

# An npy file with a float32 array of shape (0,).
_HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (0,), }"
EMPTY_ARRAY = b"\x93NUMPY\x01\x00" + (len(_HEADER) + 1).to_bytes(2, "little") + _HEADER + b"\n"


def empty_update() -> bytes:
    """Return the bytes of a model file without values."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("0.npy", EMPTY_ARRAY)
    return file.getvalue()


def refusal_metadata(reason: str, **metadata) -> dict:
    """Return the metadata of an empty update; `metadata` describes the request, such as round and client."""
    return {**metadata, "num_examples": "0", "layers": [], "refused": reason}


def write_refusal(path: str, reason: str, **metadata) -> None:
    """Write an empty update to `path` and the reason to ``path-metadata``."""
    with write_atomically(path, durable=False) as file:
        file.write(empty_update())
    write_text(path + "-metadata", json.dumps(refusal_metadata(reason, **metadata)), durable=False)
