"""A compute package's archive: read to its end, unpacked, and checked for what FEDn's client will run.

Both ends use it: the operator's machine before a package is uploaded, the device before it is run.
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
IMPORT_PATIENCE = 60  # seconds


class PackageError(FednPartialError):
    """A compute package that is damaged, or that cannot be run."""


@dataclass(frozen=True)
class Package:
    """An unpacked compute package.

    Attributes
    ----------
    folder : the one with fedn.yaml.
    config : what fedn.yaml holds.
    """

    folder: Path
    config: dict

    @property
    def ours(self) -> bool:
        """Whether it is one of fedn-partial."""
        return (self.folder / "fedn_partial").is_dir()


def check_checksum(archive: Path, allowed: str | None) -> None:
    """Raise PackageError if `archive` has another SHA-256 than `allowed`, None for any."""
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    if allowed and checksum != allowed.strip().lower():
        raise PackageError(
            f"FEDn's compute package has checksum {checksum}, client.yaml allows {allowed} alone (key package_checksum)"
        )


def unpack(archive: Path, folder: Path) -> Package:
    """Unpack `archive` into the empty folder `folder` and check it.

    Raises
    ------
    PackageError : not an archive, truncated, damaged, with something else than files and folders below it, or without
        what FEDn's client runs.
    """
    try:
        with tarfile.open(archive) as package:
            package.extractall(folder, members=plain_members(package))
            _read_to_end(package)
    except tarfile.ReadError as error:
        reason = str(error).partition(":")[0]
        raise PackageError(
            f"the archive is no tar file, or is truncated or damaged ({reason}); build it or copy it anew"
        ) from None
    except tarfile.TarError as error:
        raise PackageError(str(error)) from None
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise PackageError(f"the archive cannot be unpacked: {error.strerror}") from None
        raise PackageError(f"the archive is truncated or damaged ({error}); build it or copy it anew") from None
    return read_package(folder)


def plain_members(archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """Return what is in an archive, if that is files and folders below it and nothing else.

    Debian 12's Python 3.11.2 does not have tarfile's own filter for this yet.

    Raises
    ------
    tarfile.TarError : a link, a device, or a path that leads out of the archive's folder.
    """
    members = archive.getmembers()
    for member in members:
        path = PurePosixPath(member.name)
        if not (member.isfile() or member.isdir()) or path.is_absolute() or ".." in path.parts:
            raise tarfile.TarError(f"{member.name[:200]!a} is not a plain file or folder below it")
        member.mode = 0o755 if member.isdir() else 0o644
    return members


def _read_to_end(archive: tarfile.TarFile) -> None:
    """Read what follows the last member: zeros, and in a compressed file the checksum of the whole."""
    archive.fileobj.seek(archive.offset)
    while chunk := archive.fileobj.read(1 << 20):
        if chunk.strip(b"\0"):  # tarfile takes a damaged header for the end of the archive
            raise tarfile.ReadError("damaged header")


def read_package(folder: Path) -> Package:
    """Read the fedn.yaml in or below `folder` and check that what it names is there (raises PackageError)."""
    found = sorted(folder.rglob("fedn.yaml"), key=lambda path: len(path.parts))
    if not found:
        raise PackageError("the compute package has no fedn.yaml")
    try:
        config = parse_yaml(found[0].read_text(), "fedn.yaml")
    except (OSError, SettingsError, UnicodeDecodeError) as error:
        raise PackageError(f"the compute package's fedn.yaml cannot be read: {error}") from None
    entry_points = config.get("entry_points") if isinstance(config, dict) else None
    if not isinstance(entry_points, dict):
        raise PackageError("the compute package's fedn.yaml has no section 'entry_points'")
    for name in REQUIRED:
        if name not in entry_points:
            raise PackageError(f"the compute package's fedn.yaml has no entry point {name!r}")
    for name, entry in entry_points.items():
        _check_entry_point(name, entry, found[0].parent)
    environment = config.get("python_env")
    if environment and not (found[0].parent / str(environment)).is_file():
        raise PackageError(f"fedn.yaml names python_env {environment}, which is not in the compute package")
    return Package(found[0].parent, config)


def _check_entry_point(name: str, entry, folder: Path) -> None:
    command = entry.get("command") if isinstance(entry, dict) else None
    if not isinstance(command, str) or not command.strip():
        raise PackageError(f"the compute package's fedn.yaml has no command for entry point {name!r}")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise PackageError(
            f"fedn.yaml: the command of entry point {name!r}, {command!r}, is damaged: {error}"
        ) from None
    for word in words:
        if word.endswith(SCRIPTS) and not (folder / word).is_file():
            raise PackageError(f"entry point {name!r} runs {word}, which is not in the compute package")


def check_runs(package: Package) -> None:
    """Compile every Python file of `package`, and import the entry points of one of fedn-partial.

    Other packages may train when they are imported. Nothing here imports TensorFlow.

    Raises
    ------
    PackageError : a file that this Python cannot compile or import.
    """
    for path in sorted(package.folder.rglob("*.py")):
        try:
            compile(path.read_bytes(), str(path.relative_to(package.folder)), "exec")
        except (SyntaxError, ValueError) as error:
            line = f", line {error.lineno}" if getattr(error, "lineno", None) else ""
            where = f"{path.relative_to(package.folder)}{line}"
            raise PackageError(f"the compute package's {where} is not Python: {error.args[0]}") from None
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
            command, cwd=package.folder, capture_output=True, text=True, timeout=IMPORT_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise PackageError(f"the compute package's entry points are not imported after {IMPORT_PATIENCE} s") from None
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise PackageError(f"the compute package's entry points cannot be imported: {reason}")
