"""Names such as my_module:MyClass: what they find, and everything that they must not find."""

import json
import subprocess
import sys
import tarfile

import pytest

from fedn_partial import models
from fedn_partial.custom import modules, names
from fedn_partial.custom.errors import UserCodeError
from fedn_partial.seed_model.package import build_package
from fedn_partial.settings.schema import SettingsError
from fedn_partial.submodel import selection
from fedn_partial.submodel.selection import Context, Selector, requested_layers

SELECTORS = """
    import os
    from dataclasses import dataclass
    from os import system
    from pathlib import Path

    from fedn_partial.settings.schema import SettingsError, bounded
    from fedn_partial.submodel.selection import Random, Selector


    @dataclass(frozen=True)
    class Alternate(Selector):
        step: int = bounded(2, at_least=1)

        def select(self, layers, context):
            return [layer.name for layer in layers[context.round % self.step :: self.step]]


    class Unrelated:
        pass


    @dataclass(frozen=True)
    class Broken(Selector):
        def select(self, layers, context):
            return layers[1_000].name


    NUMBER = 3
"""


def refusal(name: str, error=SettingsError) -> str:
    with pytest.raises(error) as raised:
        names.find_class(name, Selector, "selection: selector")
    return str(raised.value)


def test_a_class_is_found_and_named_back(custom):
    custom(my_selectors=SELECTORS)
    section = {"selector": "my_selectors:Alternate", "step": 3, "warmup_rounds": 1}
    selector = selection.from_dict(section)
    assert (type(selector).__name__, selector.step) == ("Alternate", 3)
    assert selection.to_dict(selector) == section
    with pytest.raises(SettingsError, match="selection: step must be at least 1, found 0"):
        selection.from_dict({**section, "step": 0})
    with pytest.raises(SettingsError, match="unknown key 'stp', did you mean 'step'"):
        selection.from_dict({"selector": "my_selectors:Alternate", "stp": 3})


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("os:system", "module 'os' is not allowed. The modules in {folder} are: my_selectors"),
        ("subprocess:Popen", "module 'subprocess' is not allowed"),
        ("fedn_partial:Selector", "module 'fedn_partial' is not allowed"),
        ("my_selectors:system", "my_selectors.py has no subclass of fedn_partial.submodel.selection.Selector"),
        ("my_selectors:Path", "called 'Path'. Allowed are: my_selectors:Alternate, my_selectors:Broken"),
        ("my_selectors:Random", "called 'Random'. Allowed are: my_selectors:Alternate"),
        ("my_selectors:NUMBER", "called 'NUMBER'"),
        ("my_selectors:nothing", "called 'nothing'"),
        ("my_selectors:__builtins__", "called '__builtins__'"),
        ("my_selectors:os.system", "'my_selectors:os.system' is not of the form my_module:MyClass"),
        ("../my_selectors:Alternate", "is not of the form"),
        ("my_selectors.os:system", "is not of the form"),
        (":Alternate", "is not of the form"),
    ],
)
def test_what_is_not_allowed_is_refused_with_what_is(name, told, custom):
    folder = custom(my_selectors=SELECTORS)
    message = refusal(name)
    assert message.startswith("selection: selector: ") and told.format(folder=folder) in message


def test_a_class_of_another_kind_is_refused_at_its_line(custom):
    folder = custom(my_selectors=SELECTORS)
    message = refusal("my_selectors:Unrelated", UserCodeError)
    assert message.startswith(f"{folder / 'my_selectors.py'}, line 18: ")
    assert "'my_selectors:Unrelated' is not a subclass of" in message


def test_without_a_folder_every_module_is_refused():
    assert "there are no custom modules. Set their folder with --with FOLDER" in refusal("os:system")


def test_a_module_that_is_not_listed_is_not_imported(custom, tmp_path):
    """A device's settings come from the server; its manifest from the package."""
    folder = custom(my_selectors=SELECTORS, other="open('imported', 'w')")
    modules._in_use = modules.CustomModules(folder, ("my_selectors",))
    assert "module 'other' is not allowed. The modules in" in refusal("other:Anything")
    assert "other" not in sys.modules


def test_the_name_of_another_module_of_python_is_refused(custom):
    folder = custom(psutil=SELECTORS)
    assert f"{folder / 'psutil.py'} has the name of an installed module; rename it" in refusal("psutil:X")


def test_another_folder_replaces_the_modules_of_the_first(custom, tmp_path):
    custom(my_selectors=SELECTORS)
    assert selection.from_dict({"selector": "my_selectors:Alternate"}).step == 2
    other = tmp_path / "other"
    other.mkdir()
    (other / "my_selectors.py").write_text((tmp_path / "custom/my_selectors.py").read_text().replace("(2", "(5"))
    modules.use(other)
    assert selection.from_dict({"selector": "my_selectors:Alternate"}).step == 5
    modules.use(None)
    assert not {str(other), str(tmp_path / "custom")} & set(sys.path) and "my_selectors" not in sys.modules


def test_an_error_in_a_method_names_file_and_line(custom, build):
    from fedn_partial.submodel.layers import read_layers

    folder = custom(my_selectors=SELECTORS)
    selector = selection.from_dict({"selector": "my_selectors:Broken"})
    with pytest.raises(UserCodeError) as raised:
        requested_layers(selector, read_layers(build("lstm_har")), Context(seed=1, round=1, client="a"))
    assert str(raised.value) == f"{folder / 'my_selectors.py'}, line 25: IndexError: list index out of range"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import keras\nimport nosuchthing\n", "line 2: ModuleNotFoundError: No module named 'nosuchthing'"),
        ("def f(:\n    pass\n", "line 1: SyntaxError: "),
        ("\n\nraise SystemExit(3)\n", "line 3: SystemExit: 3"),
        ("import my_helpers\n", "my_helpers.py, line 1: ZeroDivisionError: division by zero"),
    ],
)
def test_an_error_at_the_import_names_file_and_line(source, told, custom):
    custom(my_selectors="", my_helpers="1 / 0")
    folder = custom()
    (folder / "my_selectors.py").write_text(source)
    message = refusal("my_selectors:Any", UserCodeError)
    assert told in message and message.startswith(str(folder))


def test_the_selector_must_be_a_text_with_a_colon_to_be_custom(custom):
    custom(my_selectors=SELECTORS)
    for section in ({"selector": ["my_selectors:Alternate"]}, {"selector": {"a": 1}}, {}):
        with pytest.raises(SettingsError, match="Allowed are: random"):
            selection.from_dict(section)
        with pytest.raises(SettingsError, match="Allowed are: lstm_har"):
            models.options(section)


# On a device: the compute package, unpacked, in a process of its own

ON_A_DEVICE = """
import json, sys
from fedn_partial.submodel import selection
from fedn_partial.settings.schema import SettingsError
for name in sys.argv[1:]:
    try:
        print(type(selection.from_dict({"selector": name})).__name__)
    except SettingsError as error:
        print(error)
print("my_data" in sys.modules, "fedn_partial.client" in sys.modules)
"""


def test_a_device_resolves_what_its_package_lists_and_nothing_else(custom, tmp_path):
    custom(my_selectors=SELECTORS, my_data="raise RuntimeError('for the operator')")
    written = build_package(tmp_path / "package.tgz", modules.active())
    with tarfile.open(tmp_path / "package.tgz") as archive:
        assert sorted(written) == sorted(archive.getnames())
        archive.extractall(tmp_path / "package", filter="data")
    folder = tmp_path / "package" / "custom_modules"
    assert json.loads((folder / "manifest.json").read_text()) == {"modules": ["my_data", "my_selectors"]}
    (folder / "added.py").write_text("from my_selectors import *")
    (tmp_path / "package" / "device.py").write_text(ON_A_DEVICE)
    asked = ["my_selectors:Alternate", "os:system", "added:Alternate", "train:entry"]
    command = [sys.executable, "device.py", *asked]
    done = subprocess.run(command, cwd=tmp_path / "package", capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "Alternate", done.stderr
    for name, line in zip(asked[1:], lines[1:], strict=False):
        module = name.partition(":")[0]
        assert f"module {module!r} is not allowed. The modules in {folder} are: my_data, my_selectors" in line
    assert lines[-1] == "False False"


def test_a_package_without_custom_modules_allows_none(tmp_path):
    build_package(tmp_path / "package.tgz")
    with tarfile.open(tmp_path / "package.tgz") as archive:
        assert not [name for name in archive.getnames() if "custom_modules" in name]
        archive.extractall(tmp_path / "package", filter="data")
    (tmp_path / "package" / "device.py").write_text(ON_A_DEVICE)
    command = [sys.executable, "device.py", "os:system"]
    done = subprocess.run(command, cwd=tmp_path / "package", capture_output=True, text=True)
    assert "module 'os' is not allowed: there are no custom modules" in done.stdout, done.stderr


def test_a_package_is_not_built_of_modules_that_are_not_python(custom, tmp_path):
    folder = custom(my_models="x = 1\nx = = 2\n")
    with pytest.raises(UserCodeError) as raised:
        build_package(tmp_path / "package.tgz", modules.active())
    assert str(raised.value).startswith(f"{folder / 'my_models.py'}, line 2: SyntaxError: ")
    assert not (tmp_path / "package.tgz").exists()


@pytest.mark.parametrize("make", [lambda folder: folder / "none", lambda folder: folder])
def test_a_folder_without_modules_is_refused(make, tmp_path):
    with pytest.raises(SettingsError, match=r"custom modules: .* (is not a folder|has no Python modules)"):
        modules.use(make(tmp_path))
