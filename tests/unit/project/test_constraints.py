"""constraints.txt lists the installed versions, and every installation uses it."""

import importlib.metadata
import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from paths import ROOT
from resolve import GLIBC, PYTHONS, pins, requirements

LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]


def pinned(machine=None, python=None):
    """Return {name: version} of the versions pinned for a machine, by default this one."""
    there = {"platform_machine": machine, "python_version": python} if machine else {}
    pins = [pin for pin in map(Requirement, LINES) if not pin.marker or pin.marker.evaluate(there)]
    assert len({pin.name for pin in pins}) == len(pins)
    return {pin.name: str(pin.specifier).removeprefix("==") for pin in pins}


def installed(root="fedn-partial[local,dev]"):
    """Return {name: version} of the requirements of `root` on this machine."""
    versions, waiting, seen = {}, [Requirement(root)], set()
    while waiting:
        requirement = waiting.pop()
        distribution = importlib.metadata.distribution(requirement.name)
        versions[canonicalize_name(requirement.name)] = distribution.version
        if (key := (canonicalize_name(requirement.name), *sorted(requirement.extras))) in seen:
            continue
        seen.add(key)
        extras = [{"extra": extra} for extra in (*requirement.extras, "")]
        needs = map(Requirement, distribution.requires or ())
        waiting += [need for need in needs if not need.marker or any(map(need.marker.evaluate, extras))]
    return {name: version for name, version in versions.items() if name != "fedn-partial"}


@pytest.mark.parametrize("machine", GLIBC)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_pinned_to_a_version_that_setup_py_allows(machine, python):
    versions = pinned(machine, python)
    for requirement in map(Requirement, requirements(ROOT)):
        if not requirement.marker or requirement.marker.evaluate({"platform_machine": machine}):
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_everything_that_is_installed_has_the_pinned_version():
    versions = pinned()
    differ = {name: (have, versions.get(name)) for name, have in installed().items() if have != versions.get(name)}
    assert not differ, f"(installed, pinned): {differ}; install with 'make', or raise the pins: docs/VERSIONS.md"


def test_everybody_installs_by_it():
    assert "PIP_CONSTRAINT=constraints.txt $(BIN)/pip install" in (ROOT / "Makefile").read_text()
    assert "PIP_CONSTRAINT=/source/constraints.txt" in (ROOT / "client/Dockerfile").read_text()
    assert "!constraints.txt" in (ROOT / ".dockerignore").read_text().splitlines()
    setup = (ROOT / "jetson/setup.sh").read_text()
    assert len(re.findall(r'constraints? "\$work/source/constraints.txt"', setup)) == 2


def test_the_way_to_raise_them_is_written_down_and_is_there():
    written = (ROOT / "docs/VERSIONS.md").read_text()
    assert re.search(r"^Update it .*(week|month|quarter)", written, re.MULTILINE) and "`make constraints`" in written
    recipe = (ROOT / "Makefile").read_text().partition("\nconstraints:")[2].partition("\n\n")[0]
    assert recipe.index(".ci/resolve.py") < recipe.index("$(MAKE) test")


def test_a_pin_says_where_it_holds_only_if_versions_differ():
    places = [(machine, python) for machine in ("aarch64", "x86_64") for python in ("3.10", "3.11")]
    assert pins("a", dict.fromkeys(places, "1")) == ["a==1"]
    assert pins("a", {places[0]: "1"}) == ["a==1"]
    assert pins("a", {place: "2" if place[0] == "x86_64" else "1" for place in places}) == [
        'a==1; platform_machine == "aarch64"',
        'a==2; platform_machine == "x86_64"',
    ]
    assert pins("a", {place: "2" if place[1] == "3.11" else "1" for place in places}) == [
        'a==1; python_version == "3.10"',
        'a==2; python_version == "3.11"',
    ]
    assert len(pins("a", dict(zip(places, "1234", strict=True)))) == 4
