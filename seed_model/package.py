"""The compute package: the folder `compute_package/` as FEDn ships it to every client."""

from __future__ import annotations

import io
import json
import shlex
import tarfile
import tempfile
from pathlib import Path

import fedn_partial
from fedn_partial.client.fedn_api.api import Api
from fedn_partial.client.fedn_api.package_archive import PackageError, check_runs, unpack
from fedn_partial.custom.errors import user_code
from fedn_partial.custom.modules import FOLDER, MANIFEST, CustomModules
from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import write_atomically

NAME = "fedn-partial"  # that FEDn shows of a package
ENTRY_FILES = ("fedn.yaml", "startup.py", "train.py", "validate.py")
OTHER_PARTS = ("client", "compute_package", "configs", "seed_model")  # that an installation has inside the library


def build_package(output: str | Path, custom: CustomModules | None = None) -> list[str]:
    """Write the compute package to `output` and return the names of the files in it.

    The name's suffix selects the compression: .tar.bz2 (a fifth smaller) or .tgz. Equal files give equal bytes.

    Without custom modules the same as FEDn's ``fedn package create --path compute_package``, but it needs no checkout.

    Raises
    ------
    UserCodeError : one of the custom modules is not Python.
    """
    library = Path(fedn_partial.__file__).parent
    # In a checkout the entry points lie around the library, as in the package; an installation has them inside it.
    entry_folder = library.parent if (library.parent / "fedn.yaml").exists() else library / "compute_package"
    members = {name: entry_folder / name for name in ENTRY_FILES}
    members |= {str(Path("fedn_partial") / path): library / path for path in library_files()}
    if custom:
        _check_syntax(custom)
        members |= {f"{FOLDER}/{name}.py": custom.path(name) for name in custom.names}
    mode = "w:bz2" if str(output).endswith(".bz2") else "w:gz"
    with write_atomically(output) as file, tarfile.open(fileobj=file, mode=mode) as archive:
        for name, path in members.items():
            archive.add(str(path), arcname=name, filter=_nobody)
        if custom:
            manifest = json.dumps({"modules": custom.names}).encode()
            member = _nobody(tarfile.TarInfo(f"{FOLDER}/{MANIFEST}"))
            member.size = len(manifest)
            archive.addfile(member, io.BytesIO(manifest))
            members[member.name] = None
    return list(members)


def _check_syntax(custom: CustomModules) -> None:
    for name in custom.names:
        with user_code(custom.folder):
            compile(custom.path(name).read_bytes(), str(custom.path(name)), "exec")


def library_files() -> list[Path]:
    """Return the library's source files, relative to its folder: what every device downloads."""
    library = Path(fedn_partial.__file__).parent
    files = sorted(path.relative_to(library) for path in library.rglob("*.py"))
    return [path for path in files if path.parts[0] not in OTHER_PARTS]


def _nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    member.mtime = 0
    return member


def check_package(path: Path) -> None:
    """Unpack the package at `path` into a temporary folder and see whether it runs (raises PackageError)."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            package = unpack(path, Path(folder))
            check_runs(package)
        except PackageError as error:
            raise PackageError(f"{path} is not uploaded: {error}") from None
        if package.folder != Path(folder):
            raise PackageError(f"{path} is not uploaded: its fedn.yaml must be at its top, not in a folder")


def upload_package(api: Api, path: str | Path) -> str:
    """Make the package at `path` the active one and return its id.

    Raises
    ------
    FednPartialError : no such file, or not a compute package that runs. ApiError : FEDn refuses it.
    """
    path = Path(path)
    if not path.exists():
        build = shlex.join(["fedn-partial", "package", "build", "-o", str(path)])
        raise FednPartialError(f"{path} does not exist; make it with: {build}")
    check_package(path)
    if not path.name.endswith((".tgz", ".tar.gz", ".tar.bz2")):
        raise FednPartialError(f"{path}: FEDn takes packages named .tgz, .tar.gz or .tar.bz2")
    with path.open("rb") as file:
        form = {
            "helper": "numpyhelper",
            "name": NAME,
            "description": f"fedn-partial {fedn_partial.__version__}",
        }
        api.post("packages/", files={"file": (path.name, file)}, data=form)
    return api.get("packages/active")["package_id"]
