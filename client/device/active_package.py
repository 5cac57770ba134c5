"""Download FEDn's active compute package, run its startup entry point, and replace it when it changes."""

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

RETRY = 300  # seconds until a package that cannot be run is downloaded again; the download may have been damaged


class ActivePackage:
    """The compute package in `folder`.

    Attributes
    ----------
    dispatcher : FEDn's runner of its entry points, None if the package cannot be run.
    problem : why the package cannot be run, or None.
    lock : held while an entry point runs and while the package is replaced.
    """

    def __init__(self, folder: Path, checksum: str | None = None):
        """`checksum` : SHA-256 of the only allowed package, None for any."""
        self.folder = folder.absolute()
        self.dispatcher: Dispatcher | None = None
        self.problem: str | None = "FEDn has no active compute package"
        self.lock = threading.RLock()
        self._checksum = checksum
        self._name: str | None = None
        self._retry_at = 0.0

    def refresh(self, api: Api) -> None:
        """Download and start FEDn's active package if it is not the current one.

        Raises
        ------
        ApiError : FEDn does not answer with a package; the current one is kept.
        """
        with self.lock:
            name = api.active_package()
            if name is None or (name == self._name and (not self.problem or time.monotonic() < self._retry_at)):
                return
            archive = self.folder.with_name("package.download")
            try:
                self._name = api.download_package(archive)
                log(f"new compute package {self._name}, {archive.stat().st_size:,} bytes")
                self._replace(archive)
            except PackageError as error:
                self.problem = str(error)
                self._retry_at = time.monotonic() + RETRY
                log(f"cannot run the compute package: {error}; waiting for another one")
            finally:
                archive.unlink(missing_ok=True)

    def try_refresh(self, api: Api) -> None:
        """Call ``refresh``; keep the current package if FEDn does not answer or the disk is full."""
        try:
            self.refresh(api)
        except FednPartialError as error:
            log(f"cannot check for a new compute package: {error}")

    def stop(self) -> None:
        """End the entry point that runs; its ``run_cmd`` raises."""
        if self.dispatcher is not None:
            self.dispatcher.stop()

    def _replace(self, archive: Path) -> None:
        self.dispatcher, self.problem = None, "its compute package is being replaced"
        shutil.rmtree(self.folder, ignore_errors=True)  # the old package's fork server ends when its socket is gone
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
    """FEDn's dispatcher, with the paths of temporary files quoted for the shell, and a way to stop an entry point.

    FEDn runs the line "train MODEL UPDATE" in a shell without quoting.
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
    except Exception as error:  # FEDn raises several kinds when a process or the virtual environment fails
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise PackageError(f"the compute package's startup failed ({reason}); see this device's log") from None
