"""Saying no to a training request, in a way that FEDn survives.

A FEDn 0.33 client whose training fails uploads nothing, then crashes on its own result and is gone from the
fleet. So a device that cannot or must not train answers with an update that holds no layer, and the reason;
the server functions skip it and log both. Standard library only: it also serves when TensorFlow, numpy or the
process that had them is gone.
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
    """Return a model file that holds no values."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("0.npy", EMPTY_ARRAY)
    return file.getvalue()


def refusal_metadata(reason: str, **metadata) -> dict:
    """Return the metadata of an empty update; `metadata` is what is known of the request, such as round and client."""
    return {**metadata, "num_examples": "0", "layers": [], "refused": reason}


def write_refusal(path: str, reason: str, **metadata) -> None:
    """Write an empty update to `path` and the reason to ``path-metadata``."""
    with write_atomically(path, durable=False) as file:
        file.write(empty_update())
    write_text(path + "-metadata", json.dumps(refusal_metadata(reason, **metadata)), durable=False)
