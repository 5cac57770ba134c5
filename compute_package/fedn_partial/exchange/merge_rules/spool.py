"""Updates of one round on disk, for rules that need all of them at once."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile

import numpy as np

PREFIX = "fedn-partial-updates-"
DTYPE = np.dtype("<f4")


class Spool:
    """The decoded tensors of a round's updates, one file of float32 values for each update.

    The files are in a private temporary folder, which ``close`` removes. Folders that killed processes left behind are
    removed first.

    Attributes
    ----------
    senders : {layer: [(path, offsets of the layer's tensors, in values) of each update that has the layer]}.
    """

    def __init__(self):
        self.folder, self.updates, self.senders = None, 0, {}
        remove_abandoned()

    def add(self, tensors):
        """Write an update's tensors {layer: arrays}, completely or not at all.

        Raises
        ------
        ValueError : the disk is full; there must be room for another update of this size.
        """
        size = DTYPE.itemsize * sum(array.size for arrays in tensors.values() for array in arrays)
        try:
            if self.folder is None:
                self.folder = tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", ignore_cleanup_errors=True)
            path = os.path.join(self.folder.name, str(self.updates))
            free = shutil.disk_usage(self.folder.name).free
            if free < 2 * size:
                raise OSError(errno.ENOSPC, f"{free:,} bytes are free, {2 * size:,} are needed")
            write(path, tensors)
        except OSError as error:
            raise ValueError(f"cannot be written to the server's {tempfile.gettempdir()}: {error.strerror}") from None
        self.updates += 1
        offset = 0
        for name, arrays in tensors.items():
            offsets = []
            for array in arrays:
                offsets.append(offset)
                offset += array.size
            self.senders.setdefault(name, []).append((path, offsets))

    def read(self, sender, position, start, stop):
        """Return the values from `start` to `stop` of tensor number `position` of a layer's `sender`."""
        path, offsets = sender
        return np.fromfile(path, DTYPE, stop - start, offset=DTYPE.itemsize * (offsets[position] + start))

    def close(self):
        """Remove all files."""
        if self.folder is not None:
            self.folder.cleanup()


def write(path, tensors):
    """Write all values of `tensors` to the file `path`, or raise OSError and leave no file."""
    try:
        with open(path, "wb") as file:
            for arrays in tensors.values():
                for array in arrays:
                    file.write(np.ascontiguousarray(array, DTYPE).data)
    except OSError:
        os.unlink(path)
        raise


def remove_abandoned():
    """Remove the folders of processes that have ended without ``Spool.close``."""
    for name in os.listdir(tempfile.gettempdir()):
        process = name.removeprefix(PREFIX).partition("-")[0]
        if name.startswith(PREFIX) and process.isdecimal() and not is_running(int(process)):
            shutil.rmtree(os.path.join(tempfile.gettempdir(), name), ignore_errors=True)


def is_running(process):
    """Return whether a process has the id `process`."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True
