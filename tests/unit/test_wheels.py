"""Every package that a device needs is there as a wheel for the Jetson Nano: aarch64, glibc 2.27, Python 3.11.

pip is asked with the Nano's platforms. It chooses wheels by these, but judges a requirement's marker, such as
platform_machine == 'x86_64', by the machine that it runs on, so here it runs on one that says that it is the Nano.
"""

import importlib.metadata
import json
import subprocess
import sys

import pytest
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

PLATFORMS = [f"manylinux_2_{minor}_aarch64" for minor in range(27, 16, -1)] + ["manylinux2014_aarch64"]
TAGS = {*cpython_tags((3, 11), platforms=PLATFORMS), *compatible_tags((3, 11), "cp311", PLATFORMS)}
PIP = """
import platform, runpy, sys
platform.machine = lambda: "aarch64"
platform.python_version = lambda: "3.11.0"
platform.python_version_tuple = lambda: ("3", "11", "0")
sys.argv[0] = "pip"
runpy.run_module("pip", run_name="__main__")
"""


def ask_pip(folder, *wanted):
    """Return the file names of the wheels that pip would install on a Nano, and what it complains of."""
    report = folder / "report.json"
    options = ["--dry-run", "--quiet", "--ignore-installed", "--retries", "1", "--disable-pip-version-check"]
    options += ["--only-binary", ":all:", "--python-version", "3.11", "--target", str(folder / "nowhere")]
    options += [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-c", PIP, "install", *options, "--report", str(report), *wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return [], "\n".join(line for line in done.stderr.splitlines() if line.startswith("ERROR"))
    urls = [item["download_info"]["url"] for item in json.loads(report.read_text())["install"]]
    return [url.rpartition("/")[2].replace("%2B", "+") for url in urls], ""


@pytest.fixture(scope="module", autouse=True)
def index(tmp_path_factory):
    wheels, complaint = ask_pip(tmp_path_factory.mktemp("index"), "pyyaml==6.0.2")
    if not wheels:
        pytest.skip(f"no package index to ask: {complaint}")


def test_everything_that_a_device_needs_is_a_wheel_for_the_nano(tmp_path):
    needed = [word for word in importlib.metadata.requires("fedn-partial") if "extra ==" not in word]
    wheels, complaint = ask_pip(tmp_path, *needed)
    assert wheels, f"not to be had as wheels: {complaint}"
    parsed = [parse_wheel_filename(name) for name in wheels]
    assert {"fedn", "tensorflow", "grpcio", "numpy", "psutil"} <= {name for name, *_ in parsed}
    assert "tensorflow-cpu" not in {name for name, *_ in parsed}  # what x86 takes instead
    assert not [f"{name} {version}" for name, version, _, tags in parsed if not tags & TAGS]


@pytest.mark.parametrize(
    "wanted",
    [
        "h5py==3.16.0",  # whose wheels for aarch64 need glibc 2.28
        "antlr4-python3-runtime==4.9.3",  # which has no wheel at all
    ],
)
def test_what_is_no_wheel_for_the_nano_is_refused_by_name(tmp_path, wanted):
    wheels, complaint = ask_pip(tmp_path, wanted)
    assert wheels == []
    assert wanted in complaint
