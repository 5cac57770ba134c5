"""The compute package: the archive of `compute_package/` that FEDn ships to every client."""

from __future__ import annotations

import fnmatch
import io
import json
import shlex
import tarfile
import tempfile
from pathlib import Path

import fedn_partial
from fedn_partial.client.fedn_api.api import Api
from fedn_partial.client.fedn_api.package_archive import PackageError, check_runs, unpack
from fedn_partial.custom import modules
from fedn_partial.custom.errors import user_code
from fedn_partial.custom.modules import FOLDER, MANIFEST, CustomModules
from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import write_atomically

NAME = "fedn-partial"  # of the package in FEDn
ENTRY_FILES = ("fedn.yaml", "startup.py", "train.py", "validate.py")
OTHER_PARTS = ("client", "compute_package", "configs", "seed_model")  # subfolders of the installed library


def build_package(output: str | Path, custom: CustomModules | None = None) -> list[str]:
    """Write the compute package to `output` and return the names of its files.

    The suffix of `output` selects the compression: .tar.bz2, which is a fifth smaller, or .tgz. Equal files give equal
    bytes. Without custom modules it contains the same files as FEDn's ``fedn package create --path compute_package``.

    Raises
    ------
    UserCodeError : a custom module has a syntax error.
    """
    library = Path(fedn_partial.__file__).parent
    members = {name: _entry_folder() / name for name in ENTRY_FILES}
    members |= {str(Path("fedn_partial") / path): library / path for path in library_files()}
    if custom:
        _check_syntax(custom)
        members |= {f"{FOLDER}/{name}.py": custom.path(name) for name in custom.names}
    mode = "w:bz2" if str(output).endswith(".bz2") else "w:gz"
    with write_atomically(output) as file, tarfile.open(fileobj=file, mode=mode) as archive:
        for name, path in members.items():
            archive.add(str(path), arcname=name, filter=_normalised)
        if custom:
            manifest = json.dumps({"modules": custom.names}).encode()
            member = _normalised(tarfile.TarInfo(f"{FOLDER}/{MANIFEST}"))
            member.size = len(manifest)
            archive.addfile(member, io.BytesIO(manifest))
            members[member.name] = None
    return list(members)


def _check_syntax(custom: CustomModules) -> None:
    for name in custom.names:
        with user_code(custom.folder):
            compile(custom.path(name).read_bytes(), str(custom.path(name)), "exec")


def _entry_folder() -> Path:
    """Return the folder of the entry points: in a checkout the library's parent, as in the package."""
    library = Path(fedn_partial.__file__).parent
    return library.parent if (library.parent / "fedn.yaml").exists() else library / "compute_package"


def library_files() -> list[Path]:
    """Return the library's source files that every device downloads, relative to its folder.

    These are all but those in ``.fednignore``, which FEDn's own command leaves out as well.
    """
    library = Path(fedn_partial.__file__).parent
    files = sorted(path.relative_to(library) for path in library.rglob("*.py"))
    ignored = [line for line in (_entry_folder() / ".fednignore").read_text().splitlines() if "/" in line]
    return [
        path
        for path in files
        if path.parts[0] not in OTHER_PARTS
        and not any(fnmatch.fnmatch(f"fedn_partial/{path.as_posix()}", pattern) for pattern in ignored)
    ]


def _normalised(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    member.mtime = 0
    return member


def check_package(path: Path) -> None:
    """Check that the package at `path` unpacks and runs (raises PackageError)."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            package = unpack(path, Path(folder))
            check_runs(package)
        except PackageError as error:
            raise PackageError(f"{path} is not uploaded: {error}") from None
        if package.folder != Path(folder):
            raise PackageError(f"{path} is not uploaded: its fedn.yaml must be at its top level, not in a folder")


def check_library(folder: Path) -> None:
    """Raise FednPartialError unless the compute package in `folder` contains the library of this installation.

    Devices with another version would refuse the session's settings, or train in another way than the simulator.
    """
    library, shipped = Path(fedn_partial.__file__).parent, folder / "fedn_partial"
    for path in library_files():
        if not (shipped / path).exists() or (shipped / path).read_bytes() != (library / path).read_bytes():
            raise FednPartialError(
                f"FEDn's active compute package is of another version of fedn-partial ({path} differs); {rebuild()}"
            )


def rebuild() -> str:
    """Return the commands that replace FEDn's active package, with the custom modules in use, as part of an error."""
    custom = modules.active()
    build = ["fedn-partial", "package", "build", *(["--with", str(custom.folder)] if custom else [])]
    return f"rebuild and upload it: {shlex.join(build)}; fedn-partial package upload"


def upload_package(api: Api, path: str | Path) -> str:
    """Upload the package at `path` as FEDn's active package and return its id.

    Raises
    ------
    FednPartialError : missing or invalid package. ApiError : FEDn rejects it.
    """
    path = Path(path)
    if not path.exists():
        build = shlex.join(["fedn-partial", "package", "build", "-o", str(path)])
        raise FednPartialError(f"{path} does not exist; build it with: {build}")
    check_package(path)
    if not path.name.endswith((".tgz", ".tar.gz", ".tar.bz2")):
        raise FednPartialError(
            f"{path}: unsupported suffix; rename it to .tgz, .tar.gz or .tar.bz2, which FEDn accepts"
        )
    with path.open("rb") as file:
        form = {
            "helper": "numpyhelper",
            "name": NAME,
            "description": f"fedn-partial {fedn_partial.__version__}",
        }
        api.post("packages/", files={"file": (path.name, file)}, data=form)
    return api.get("packages/active")["package_id"]
