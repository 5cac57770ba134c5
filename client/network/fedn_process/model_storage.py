"""Corrections of FEDn's temporary model storage: checked ids, bounded uploads, protected global models.

FEDn 0.33 joins model ids to its folder unchecked, and lets clients replace a global model.
"""

from __future__ import annotations

import functools
import io
import os
import re
import threading

from fedn.network.combiner import modelservice
from fedn.network.combiner.roundhandler import RoundHandler
from fedn.network.storage.models.tempmodelstorage import TempModelStorage

MODEL_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
UPLOAD_SLACK = 1_000_000  # bytes for archive headers, beyond twice the global model


def correct() -> None:
    """Patch the storage of FEDn's combiner."""
    modelservice.TempModelStorage = CheckedStorage
    RoundHandler.stage_model = _stage_model


class CheckedStorage(TempModelStorage):
    """Storage with checked ids, in which only the combiner itself can store a global model."""

    def __init__(self):
        super().__init__()
        self.global_models = set()
        self.staging_thread = None  # the combiner's thread while it stores a global model

    def get_ptr(self, model_id):
        """Return the file to write a model to."""
        is_staging = threading.get_ident() == self.staging_thread
        if model_id in self.global_models and not is_staging:
            raise ValueError(f"{model_id} is a global model")
        if model_id not in self.models and not is_staging:
            path = os.path.join(self.default_dir, check_id(model_id))
            self.models[model_id] = {"file": BoundedFile(path, "wb", self.max_upload_bytes)}
        return super().get_ptr(check_id(model_id))

    @property
    def max_upload_bytes(self) -> int:
        """Largest size of an upload: twice the largest global model, plus headers."""
        paths = [os.path.join(self.default_dir, model_id) for model_id in self.global_models]
        return 2 * max((os.path.getsize(path) for path in paths if os.path.exists(path)), default=0) + UPLOAD_SLACK

    def stage(self, model_id, stage):
        """Store a global model by calling `stage`, replacing any upload with its id."""
        if model_id in self.global_models and self.exist(model_id):
            return
        self.delete(model_id)
        self.global_models.add(model_id)
        self.staging_thread = threading.get_ident()
        try:
            stage(model_id)
        except BaseException:
            self.delete(model_id)
            raise
        finally:
            self.staging_thread = None

    def set_model_metadata(self, model_id, model_metadata):
        """Store the status of a model."""
        super().set_model_metadata(check_id(model_id), model_metadata)

    def delete(self, model_id):
        """Delete a model, complete or partial; return whether its file existed."""
        self.global_models.discard(model_id)
        self.models.pop(model_id, None)
        self.models_metadata.pop(model_id, None)
        try:
            os.remove(os.path.join(self.default_dir, check_id(model_id)))
        except (OSError, ValueError):
            return False
        return True


_fedn_stage_model = RoundHandler.stage_model


@functools.wraps(_fedn_stage_model)
def _stage_model(handler, model_id, *args, **kwargs):
    storage = handler.modelservice.temp_model_storage
    storage.stage(model_id, lambda model_id: _fedn_stage_model(handler, model_id, *args, **kwargs))


def check_id(model_id) -> str:
    """Return `model_id` if it is a valid file name (raises ValueError)."""
    if not MODEL_ID.fullmatch(str(model_id)):
        raise ValueError(f"invalid model id {str(model_id)[:200]!r}: letters, digits, '-', '_' and '.' are allowed")
    return str(model_id)


class BoundedFile(io.FileIO):
    """File of at most `limit` bytes."""

    def __init__(self, path: str, mode: str, limit: int):
        super().__init__(path, mode)
        self.limit = limit

    def write(self, data) -> int:
        """Write `data` (raises ValueError beyond the limit)."""
        if self.tell() + len(data) > self.limit:
            raise ValueError(f"the model is larger than {self.limit:,} bytes")
        return super().write(data)


class UploadedFile(io.FileIO):
    """Uploaded model, read from disk in parts; FEDn would hold all of it in memory."""

    def getbuffer(self) -> bytes:
        """Return the whole content."""
        self.seek(0)
        return self.readall()
