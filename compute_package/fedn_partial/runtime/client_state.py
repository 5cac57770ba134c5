"""State of a client between rounds: residuals of error feedback, and tensors of its own.

The state after a round of a session is called a generation, a folder of arrays:

    <folder>/<session>/<round>/<kind>-<tensor>.npy    after the round
    <folder>/<session>/<round>.new/                   written by a round in progress

A round reads the newest generation of an earlier round, writes its arrays to ``<round>.new``, and renames this folder
once the update and its metadata exist. A round that fails, is killed or is stopped before leaves the generation that it
read; a repeated round reads it again. The next round removes all other generations, and the state of other sessions.

Arrays are not flushed to the disk, which takes seconds on a memory card. After a power cut some may be damaged; these
count as absent.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from fedn_partial.log import log
from fedn_partial.runtime.atomic import write_atomically
from fedn_partial.submodel.layers import Tensor

_GENERATION = re.compile("[0-9]+")
_GENERATION_OR_NEW = re.compile(r"[0-9]+(\.new)?")


class Kind(Enum):
    """Kinds of arrays in a client's state; the value is part of the file names."""

    RESIDUAL = "residual"  # of error feedback; included in the next update of its tensor, and invalid from then on
    OWN = "own"  # tensors that the client never sends, such as local BatchNormalization statistics


class ClientState:
    """State of a client at the beginning of a round, and its replacement by the state after the round.

    Parameters
    ----------
    folder : of the client, for all sessions.
    session : id of the session.
    round : number of the round. ``read`` returns the state after the newest earlier round.
    """

    def __init__(self, folder: Path, session: str, round: int):
        self._folder = folder
        self._session = folder / session
        self._generation = self._session / str(round)
        self._new = self._session / f"{round}.new"
        earlier = [path for path in _generations(self._session) if int(path.name) < round]
        self._base = max(earlier, key=lambda path: int(path.name), default=None)
        self._written: dict[str, Kind] = {}
        self._failed = False

    def begin(self) -> None:
        """Remove everything but the state at the beginning of this round: its folders are the only ones in use."""
        for session in _entries(self._folder):
            if session != self._session and _is_session(session):
                shutil.rmtree(session, ignore_errors=True)
        for path in _entries(self._session):
            if path != self._base:
                shutil.rmtree(path, ignore_errors=True)

    def read(self, kind: Kind, tensor: Tensor) -> np.ndarray | None:
        """Return a float32 array of the tensor's shape, or None if it is missing or damaged."""
        if self._base is None:
            return None
        try:
            array = _read_array(self._base / _file_name(kind, tensor), tensor.shape)
        except OSError:
            return None
        return array if array is not None and np.isfinite(array).all() else None

    def write(self, kind: Kind, tensor: Tensor, array: np.ndarray) -> None:
        """Write an array of the state after this round.

        On a full disk the state after this round is given up, see ``give_up``; this never raises OSError.
        """
        name = _file_name(kind, tensor)
        self._written[name] = kind
        if self._failed:
            return
        try:
            self._new.mkdir(parents=True, exist_ok=True)
            with write_atomically(self._new / name, durable=False) as file:
                np.save(file, np.asarray(array, np.float32, order="C"), allow_pickle=False)
        except OSError as error:
            self._fail(error)

    def residuals(self, tensors: list[Tensor]) -> list[Residual]:
        """Return the residuals of `tensors`, for ``fedn_partial.exchange.encoding.encode``."""
        return [Residual(self, tensor) for tensor in tensors]

    def give_up(self) -> bool:
        """Free the disk space of the arrays written in this round; return False if there are none.

        ``commit`` then keeps the state at the beginning of the round, without the residuals that the update includes.
        """
        used = self._new.exists()
        self._failed = True
        shutil.rmtree(self._new, ignore_errors=True)
        return used

    def commit(self) -> None:
        """Replace the state; call this once the update and its metadata exist. Arrays not written are kept."""
        if not self._written:
            return
        if not self._failed:
            try:
                self._keep_unwritten()
                os.rename(self._new, self._generation)
                return
            except OSError as error:
                self._fail(error)
        self._remove_sent_residuals()

    def discard(self) -> None:
        """Remove the arrays written in this round, whose update does not exist."""
        shutil.rmtree(self._new, ignore_errors=True)
        self._written.clear()

    def _fail(self, error: OSError) -> None:
        log(f"cannot save the client's state, the rounding errors of this update are lost: {error}")
        self.give_up()

    def _keep_unwritten(self) -> None:
        """Link the arrays of the earlier generation that this round did not write; copy them where links fail."""
        for path in _entries(self._base):
            if path.name not in self._written and path.is_file():
                try:
                    os.link(path, self._new / path.name)
                except OSError:  # FAT has no links
                    shutil.copyfile(path, self._new / path.name)

    def _remove_sent_residuals(self) -> None:
        """Remove the residuals that the update includes: the next update would include them a second time."""
        for name, kind in self._written.items():
            if kind is Kind.RESIDUAL and self._base is not None:
                with contextlib.suppress(OSError):
                    (self._base / name).unlink()


@dataclass(frozen=True)
class Residual:
    """Residual of one tensor: the rounding errors of its changes that were sent."""

    state: ClientState
    tensor: Tensor

    def load(self, shape: tuple[int, ...]) -> np.ndarray | np.float32:
        """Return the residual as an array of `shape`, or zero if it is missing or damaged."""
        array = self.state.read(Kind.RESIDUAL, self.tensor)
        return array if array is not None and array.shape == shape else np.float32(0)

    def save(self, array: np.ndarray) -> None:
        """Write the residual of the state after this round."""
        self.state.write(Kind.RESIDUAL, self.tensor, array)


def remove_earlier_layout(workdir: str | Path) -> None:
    """Remove the files in which earlier versions stored the state of a session, which has ended."""
    folder = Path(workdir)
    old = [*folder.glob("residuals/*/[0-9]*.npy"), *folder.glob("statistics/*.npy")]
    for path in old:
        with contextlib.suppress(OSError):
            path.unlink()
    emptied = {parent for path in old for parent in path.parents if folder in parent.parents}
    for path in sorted(emptied, reverse=True):  # a folder after its subfolders
        with contextlib.suppress(OSError):  # not empty
            path.rmdir()


def _file_name(kind: Kind, tensor: Tensor) -> str:
    return f"{kind.value}-{tensor.index}.npy"


def _read_array(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the float32 array in an npy file, or None if the file is not one of `shape`. Raises OSError."""
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0(file)
        except OSError:
            raise
        except Exception:  # numpy evaluates the header as Python
            return None
        if version != (1, 0) or header != (tuple(shape), False, np.dtype(np.float32)):
            return None
        array = np.fromfile(file, np.float32, math.prod(shape))
    return array.reshape(shape) if array.size == math.prod(shape) else None


def _entries(folder: Path | None) -> list[Path]:
    try:
        return sorted(folder.iterdir()) if folder else []
    except OSError:  # missing
        return []


def _generations(session: Path) -> list[Path]:
    return [path for path in _entries(session) if _GENERATION.fullmatch(path.name) and path.is_dir()]


def _is_session(path: Path) -> bool:
    """Return whether `path` is the state of a session; the working folder may contain a folder of another program."""
    return (
        path.is_dir()
        and not path.is_symlink()
        and all(_GENERATION_OR_NEW.fullmatch(generation.name) for generation in _entries(path))
    )
