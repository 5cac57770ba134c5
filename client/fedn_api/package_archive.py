"""Unpack and check the archive of a compute package.

The operator's machine does so before the upload, the device before it runs the package.
"""

from __future__ import annotations

import hashlib
import lzma
import shlex
import shutil
import subprocess
import sys
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fedn_partial.errors import FednPartialError
from fedn_partial.settings.schema import SettingsError
from fedn_partial.settings.yaml_file import parse_yaml

REQUIRED = ("train", "validate")
SCRIPTS = (".py", ".sh")
IMPORT_TIMEOUT = 60  # seconds


class PackageError(FednPartialError):
    """The compute package is damaged or cannot be run."""


@dataclass(frozen=True)
class Package:
    """An unpacked compute package.

    Attributes
    ----------
    folder : folder of fedn.yaml.
    config : content of fedn.yaml.
    """

    folder: Path
    config: dict

    @property
    def ours(self) -> bool:
        """Whether fedn-partial built it."""
        return (self.folder / "fedn_partial").is_dir()


def check_checksum(archive: Path, allowed: str | None) -> None:
    """Raise PackageError if the SHA-256 of `archive` is not `allowed` (None: any)."""
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    if allowed and checksum != allowed.strip().lower():
        raise PackageError(
            f"FEDn's compute package has SHA-256 {checksum}, client.yaml allows only {allowed} (key package_checksum)"
        )


def unpack(archive: Path, folder: Path) -> Package:
    """Unpack `archive` into the empty folder `folder` and check it.

    Raises
    ------
    PackageError : `archive` is no tar file, is damaged, contains more than plain files and folders, or lacks what
        FEDn's client runs.
    """
    try:
        with tarfile.open(archive) as package:
            package.extractall(folder, members=plain_members(package))
            _read_to_end(package)
    except tarfile.ReadError as error:
        reason = str(error).partition(":")[0]
        raise PackageError(
            f"the archive is no tar file, or is truncated or damaged ({reason}); build or copy it again"
        ) from None
    except tarfile.TarError as error:
        raise PackageError(str(error)) from None
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise PackageError(f"the archive cannot be unpacked: {error.strerror}") from None
        raise PackageError(f"the archive is truncated or damaged ({error}); build or copy it again") from None
    return read_package(folder)


def plain_members(archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """Return the members of `archive`, which must be plain files and folders below its root.

    tarfile's own filter is missing in Debian 12's Python 3.11.2.

    Raises
    ------
    tarfile.TarError : a member is a link or a device, or its path leads out of the root.
    """
    members = archive.getmembers()
    for member in members:
        path = PurePosixPath(member.name)
        if not (member.isfile() or member.isdir()) or path.is_absolute() or ".." in path.parts:
            raise tarfile.TarError(f"{member.name[:200]!a} is not a plain file or folder below its root")
        member.mode = 0o755 if member.isdir() else 0o644
    return members


def _read_to_end(archive: tarfile.TarFile) -> None:
    """Read past the last member, so that the checksum of a compressed file is verified."""
    archive.fileobj.seek(archive.offset)
    while chunk := archive.fileobj.read(1 << 20):
        if chunk.strip(b"\0"):  # tarfile treats a damaged header as the end of the archive
            raise tarfile.ReadError("damaged header")


def read_package(folder: Path) -> Package:
    """Read the fedn.yaml in or below `folder` and check that the files it names exist (raises PackageError)."""
    path = min(folder.rglob("fedn.yaml"), key=lambda path: len(path.parts), default=None)
    if path is None:
        raise PackageError("the compute package has no fedn.yaml")
    try:
        config = parse_yaml(path.read_text(), "fedn.yaml")
    except (OSError, SettingsError, UnicodeDecodeError) as error:
        raise PackageError(f"the compute package's fedn.yaml cannot be read: {error}") from None
    entry_points = config.get("entry_points") if isinstance(config, dict) else None
    if not isinstance(entry_points, dict):
        raise PackageError("the compute package's fedn.yaml has no section 'entry_points'")
    for name in REQUIRED:
        if name not in entry_points:
            raise PackageError(f"the compute package's fedn.yaml has no entry point {name!r}")
    for name, entry in entry_points.items():
        _check_entry_point(name, entry, path.parent)
    environment = config.get("python_env")
    if environment and not (path.parent / str(environment)).is_file():
        raise PackageError(f"fedn.yaml names python_env {environment}, which is not in the compute package")
    return Package(path.parent, config)


def _check_entry_point(name: str, entry, folder: Path) -> None:
    command = entry.get("command") if isinstance(entry, dict) else None
    if not isinstance(command, str) or not command.strip():
        raise PackageError(f"the compute package's fedn.yaml has no command for entry point {name!r}")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise PackageError(f"fedn.yaml: invalid command {command!r} of entry point {name!r}: {error}") from None
    for word in words:
        if word.endswith(SCRIPTS) and not (folder / word).is_file():
            raise PackageError(f"entry point {name!r} runs {word}, which is not in the compute package")


def check_runs(package: Package) -> None:
    """Compile every Python file of `package`, and import the entry points if fedn-partial built it.

    Other packages may start to train on import. TensorFlow is not imported.

    Raises
    ------
    PackageError : this Python cannot compile or import one of the files.
    """
    for path in sorted(package.folder.rglob("*.py")):
        try:
            compile(path.read_bytes(), str(path.relative_to(package.folder)), "exec")
        except (SyntaxError, ValueError) as error:
            line = f", line {error.lineno}" if getattr(error, "lineno", None) else ""
            file = path.relative_to(package.folder)
            raise PackageError(f"the compute package's {file}{line} is not valid Python: {error.args[0]}") from None
    for name, entry in package.config["entry_points"].items():
        program = shlex.split(entry["command"])[0]
        if not shutil.which(program) and not (package.folder / program).exists():
            raise PackageError(f"entry point {name!r} runs {program!r}, which is not a program on this machine")
    if not package.ours:
        return
    scripts = [word for entry in package.config["entry_points"].values() for word in shlex.split(entry["command"])]
    modules = [word.removesuffix(".py") for word in scripts if word.endswith(".py") and "/" not in word]
    code = "import importlib, sys; sys.path.insert(0, '.'); [importlib.import_module(name) for name in sys.argv[1:]]"
    command = [sys.executable, "-c", code, *modules, "fedn_partial.runtime.task"]
    try:
        done = subprocess.run(
            command, cwd=package.folder, capture_output=True, text=True, timeout=IMPORT_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise PackageError(
            f"importing the compute package's entry points takes longer than {IMPORT_TIMEOUT} s"
        ) from None
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise PackageError(f"the compute package's entry points cannot be imported: {reason}")
