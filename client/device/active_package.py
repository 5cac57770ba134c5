"""The compute package that FEDn has active, fetched and started up on this device, and exchanged when that changes."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import psutil
from fedn.utils.dispatcher import Dispatcher

from fedn_partial.client.fedn_api.api import Api
from fedn_partial.client.fedn_api.package_archive import PackageError, check_checksum, unpack
from fedn_partial.errors import FednPartialError
from fedn_partial.log import log

RETRY = 300  # seconds until a package that could not be run is fetched again: it may have been damaged on its way


class ActivePackage:
    """The compute package in `folder`.

    Attributes
    ----------
    dispatcher : FEDn's runner of its entry points, None if it cannot be run.
    problem : why it cannot be run, None if it can.
    lock : held by whoever runs an entry point or exchanges the package.
    """

    def __init__(self, folder: Path, checksum: str | None = None):
        """`checksum` : SHA-256 of the only package that may be run, None for any."""
        self.folder = folder.absolute()
        self.dispatcher: Dispatcher | None = None
        self.problem: str | None = "FEDn has no active compute package"
        self.lock = threading.RLock()
        self._checksum = checksum
        self._name: str | None = None
        self._retry_at = 0.0

    def refresh(self, api: Api) -> None:
        """Fetch and start up FEDn's active package, unless it is the one here.

        Raises
        ------
        ApiError : FEDn does not answer, or not with a package; the one here stays.
        """
        with self.lock:
            name = api.active_package()
            if name is None or (name == self._name and (not self.problem or time.monotonic() < self._retry_at)):
                return
            archive = self.folder.with_name("package.download")
            try:
                self._name = api.download_package(archive)
                log(f"compute package {self._name} of {archive.stat().st_size:,} bytes is new; starting it up")
                self._exchange(archive)
            except PackageError as error:
                self.problem = str(error)
                self._retry_at = time.monotonic() + RETRY
                log(f"this device cannot take part: {error}; waiting for another package")
            finally:
                archive.unlink(missing_ok=True)

    def look(self, api: Api) -> None:
        """As ``refresh``, but keep the package here where FEDn does not answer, or this disk has no room."""
        try:
            self.refresh(api)
        except FednPartialError as error:
            log(f"whether there is a new compute package is not known: {error}")

    def stop(self) -> None:
        """End the entry point that runs; its ``run_cmd`` raises."""
        if self.dispatcher is not None:
            self.dispatcher.stop()

    def _exchange(self, archive: Path) -> None:
        self.dispatcher, self.problem = None, "its compute package is being exchanged"
        shutil.rmtree(self.folder, ignore_errors=True)  # the fork server of the old package ends without its socket
        check_checksum(archive, self._checksum)
        try:
            self.folder.mkdir(parents=True)
            package = unpack(archive, self.folder)
            dispatcher = StoppableDispatcher(package.config, str(package.folder))
            _start_up(dispatcher)
        except PackageError:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self.dispatcher, self.problem = dispatcher, None


class StoppableDispatcher(Dispatcher):
    """FEDn's runner of entry points, of which another thread can stop the one that runs.

    The folder of temporary files may have spaces and quotes in its path: FEDn's client passes one line,
    "train MODEL UPDATE", and its own dispatcher runs that in a shell as it is.
    """

    _process: subprocess.Popen | None = None

    def run_cmd(self, cmd_type, **options):
        """Run an entry point until it ends (raises EntryPointError if it failed)."""
        name, *paths = cmd_type.split(f" {tempfile.gettempdir()}")
        entry_point, *arguments = name.split(" ")
        command = [self.config["entry_points"][entry_point]["command"], *arguments]
        command += [shlex.quote(tempfile.gettempdir() + path) for path in paths]
        line = " && ".join(filter(None, (self.activate_cmd, " ".join(command))))
        with subprocess.Popen(["bash", "-c", line], cwd=self.project_dir) as self._process:
            code = self._process.wait()
        if code:
            raise EntryPointError(f"Non-zero exit code: {code}")

    def stop(self) -> None:
        """End the entry point that runs, and the processes that it started."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.terminate()
        process.terminate()


class EntryPointError(FednPartialError):
    """An entry point of the compute package ended with an exit code other than 0."""


def _start_up(dispatcher: Dispatcher) -> None:
    try:
        dispatcher._get_or_create_python_env()
        if "startup" in dispatcher.config["entry_points"]:
            dispatcher.run_cmd("startup")
    except Exception as error:  # FEDn's own, of a process that failed or an environment that cannot be made
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise PackageError(f"the compute package's start-up failed ({reason}); this device's log says why") from None
