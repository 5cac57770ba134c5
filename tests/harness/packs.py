"""The packs of real data that lie beside the project on its developers' machines."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

PACKS = Path(__file__).parents[2].parent / "shared" / "data"
needed = pytest.mark.skipif(not PACKS.is_dir(), reason=f"no data in {PACKS}")


def unpack(name: str, folder: Path) -> Path:
    """Unpack a data set below `folder` and return where its official files are."""
    if name == "cifar10":
        pytest.importorskip("PIL")
        subprocess.run([sys.executable, PACKS / "unpack_cifar10.py", folder], check=True)
        return folder
    with tarfile.open(PACKS / f"{name}.tar.xz") as pack:
        pack.extractall(folder, filter="data")
    return folder / "casas" / "csh_format" if name == "casas" else folder
