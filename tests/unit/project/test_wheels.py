"""Every package of a device has a wheel for the Jetson Nano: aarch64, glibc 2.27, Python 3.11."""

import importlib.metadata

import pytest
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename
from paths import ROOT
from resolve import Unresolved, platforms, resolve

CONSTRAINTS = ROOT / "constraints.txt"
PLATFORMS = platforms("aarch64")
TAGS = {*cpython_tags((3, 11), platforms=PLATFORMS), *compatible_tags((3, 11), "cp311", PLATFORMS)}


def wheels_for_the_nano(*requirements):
    """Return the file names of the wheels that pip would install on a Nano."""
    urls = [item["download_info"]["url"] for item in resolve("aarch64", "3.11", requirements)]
    return [url.rpartition("/")[2].replace("%2B", "+") for url in urls]


@pytest.fixture(scope="module", autouse=True)
def index():
    try:
        wheels_for_the_nano("pyyaml==6.0.2")
    except Unresolved as complaint:
        pytest.skip(f"no package index to ask: {complaint}")


def test_everything_that_a_device_needs_is_a_wheel_for_the_nano():
    needed = [word for word in importlib.metadata.requires("fedn-partial") if "extra ==" not in word]
    wheels = wheels_for_the_nano(*needed, "--constraint", str(CONSTRAINTS))
    parsed = [parse_wheel_filename(name) for name in wheels]
    assert {"fedn", "tensorflow", "grpcio", "numpy", "psutil"} <= {name for name, *_ in parsed}
    assert "tensorflow-cpu" not in {name for name, *_ in parsed}  # what x86 takes instead
    assert not [f"{name} {version}" for name, version, _, tags in parsed if not tags & TAGS]


@pytest.mark.parametrize(
    "requirement",
    [
        "h5py==3.16.0",  # whose wheels for aarch64 need glibc 2.28
        "antlr4-python3-runtime==4.9.3",  # which has no wheel at all
    ],
)
def test_what_is_no_wheel_for_the_nano_is_refused_by_name(requirement):
    with pytest.raises(Unresolved, match=requirement):
        wheels_for_the_nano(requirement)
