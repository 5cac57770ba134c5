"""What several test files use: models, built once, and a disk that is full."""

import functools
import os
import subprocess

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest


@pytest.fixture(scope="session")
def build():
    """Build a model by name and options; equal calls share one model, so leave its weights alone."""
    from fedn_partial import models

    @functools.cache
    def build(name, **options):
        return models.build({"name": name, **options})

    return build


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 256 kB with a file on it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "fedn-partial-test", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    (folder / "before").write_text("as it was")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
