"""Which part of the project may import what: docs/ARCHITECTURE.md."""

import subprocess
import sys

import pytest
from import_walk import imports, imports_of
from paths import ROOT

from fedn_partial.seed_model import server_functions

LIBRARY = ROOT / "compute_package" / "fedn_partial"
EXCHANGE = LIBRARY / "exchange"
NOT_ON_A_DEVICE = (
    "fedn_partial.client",
    "fedn_partial.seed_model",
    "fedn_partial.configs",
    "fedn",
    "docker",
    "matplotlib",
    "pandas",
    "scipy",
    "jinja2",
    "rclone",
    "sklearn",
)
# The places that may import fedn: files, or folders with all that is below them.
FEDN = {
    "client": ("device/", "network/fedn_process/", "simulation/__init__.py"),
    "seed_model": ("server_state.py",),
}


def with_module(folder, name, text):
    """Write the module `name` with `text` to a folder of the library's shape, and return that folder."""
    path = folder / "fedn_partial" / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return folder / "fedn_partial"


def outside(statements, places):
    """Return the import statements that are not in one of `places`."""
    return [str(statement) for statement in statements if not statement.path.startswith(places)]


def test_the_library_imports_nothing_that_only_an_operator_needs():
    assert list(map(str, imports_of(LIBRARY, "fedn_partial", *NOT_ON_A_DEVICE))) == []


@pytest.mark.parametrize("module", NOT_ON_A_DEVICE)
@pytest.mark.parametrize(
    "text",
    ["import {}", "import os, {}.part as x", "from {} import x", "def f():\n    import {}", "import_module('{}')"],
)
def test_every_form_of_a_forbidden_import_is_seen(module, text, tmp_path):
    library = with_module(tmp_path, "training/step.py", f'"""A module."""\n{text.format(module)}\n')
    (statement,) = imports_of(library, "fedn_partial", *NOT_ON_A_DEVICE)
    assert statement.path == "training/step.py" and statement.line == text.count("\n") + 2


@pytest.mark.parametrize(
    "text",
    ["from fedn_partial import client", "from .. import client", "from ..client import device", "from ...x import y"],
)
def test_an_import_of_the_client_by_another_name_is_seen(text, tmp_path):
    library = with_module(tmp_path, "training/step.py", text)
    seen = imports_of(library, "fedn_partial", "fedn_partial.client")
    assert bool(seen) == ("client" in text)  # the last one leaves the package


def test_an_import_of_a_module_with_a_similar_name_is_allowed(tmp_path):
    library = with_module(tmp_path, "training/step.py", "import fedn_partial.clients, fednx\n# import docker")
    assert imports_of(library, "fedn_partial", *NOT_ON_A_DEVICE) == []


@pytest.mark.parametrize("part", FEDN)
def test_fedn_is_imported_in_the_listed_places_only(part):
    statements = imports_of(ROOT / part, f"fedn_partial.{part}", "fedn")
    assert outside(statements, FEDN[part]) == []
    unused = [place for place in FEDN[part] if all(not one.path.startswith(place) for one in statements)]
    assert unused == [], "these places import no fedn any more: take them off the list"


def test_an_import_of_fedn_in_another_place_is_seen(tmp_path):
    folder = with_module(tmp_path, "report/page.py", "def f():\n    from fedn.common import config")
    statements = imports_of(folder, "fedn_partial.client", "fedn")
    assert outside(statements, FEDN["client"]) == ["report/page.py, line 2: fedn.common.config"]


def travelling_modules():
    """Return the names of the modules of exchange that are in the text of the server functions."""
    client = {"merge": "all_clients", "codec": "float32", "server_optimizer": {"name": "none"}}
    first_line = server_functions.source({"client": client}).partition("\n")[0]
    return first_line.partition(": ")[2].partition(" of the folder exchange")[0].split(", ")


def module_name(path):
    """Return the name of the module in the file `path`, relative to exchange."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def foreign_imports(folder, modules):
    """Return the imports in `modules` of a folder like exchange that FEDn's hooks process cannot resolve."""
    package = "fedn_partial.exchange"
    installed = {"numpy", *sys.stdlib_module_names}
    in_text = {f"{package}.{module}" for module in modules}
    return [
        str(statement)
        for statement in imports(folder, package)
        if module_name(statement.path) in modules
        and not all(
            name in in_text if statement.relative else name.partition(".")[0] in installed for name in statement.modules
        )
    ]


def test_what_travels_to_fedn_imports_numpy_the_standard_library_and_each_other_only():
    modules = travelling_modules()
    assert {"server", "merge_rules", "codecs", "wire"} <= set(modules)
    assert set(modules) <= {module_name(path.relative_to(EXCHANGE).as_posix()) for path in EXCHANGE.rglob("*.py")}
    assert {path.stem for path in (EXCHANGE / "codecs").glob("[!_]*.py")} == {
        name.removeprefix("codecs.") for name in modules if name.startswith("codecs.")
    }
    assert foreign_imports(EXCHANGE, modules) == []


FOREIGN = {
    "another package": "import msgspec",
    "in a function": "def f():\n    from yaml import load",
    "by its full name": "from fedn_partial.exchange.wire import digest",
    "a module that stays": "from .encoding import encode",
    "another room": "from ..runtime import atomic",
    "the package": "from . import wire",
}


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_what_fedn_cannot_import_is_seen(text, tmp_path):
    (tmp_path / "server.py").write_text(f"import json\nimport numpy as np\nfrom .wire import digest\n{text}\n")
    (tmp_path / "wire.py").write_text("import zlib\n")
    (tmp_path / "encoding.py").write_text("import yaml\n")  # not in the text
    (statement,) = foreign_imports(tmp_path, ["server", "wire"])
    assert statement.startswith("server.py, line ")


def test_importing_the_library_imports_no_tensorflow():
    code = "import sys, fedn_partial; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "fedn_partial" in done.stdout.split()
    assert not set(done.stdout.split()) & {"tensorflow", "keras", "numpy", "fedn"}
