"""The folder of custom modules, to which names in the settings may refer.

On the operator's machine it is the argument of ``use`` (the option ``--with``, or ``package: with:`` in a case). On a
device it is the folder ``custom_modules`` of the compute package; names in the settings can import only the modules in
its manifest.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import fedn_partial
from fedn_partial.custom.errors import user_code
from fedn_partial.settings.schema import SettingsError

FOLDER = "custom_modules"  # in a compute package, beside the library
MANIFEST = "manifest.json"
RESERVED = ("train", "validate", "startup", "fedn_partial")  # modules of a compute package, which devices find first


@dataclass(frozen=True)
class CustomModules:
    """A folder of custom modules, and the names of the importable ones."""

    folder: Path
    names: tuple[str, ...]

    def path(self, name: str) -> Path:
        """Return the file of the module `name`."""
        return self.folder / f"{name}.py"

    def imported_by(self, names: Iterable[str]) -> list[str]:
        """Return the modules `names` and all modules of this folder that they import, directly or not, sorted.

        Raises
        ------
        UserCodeError : one of them has a syntax error.
        """
        pending, imported = list(names), set()
        while pending:
            name = pending.pop()
            if name not in self.names or name in imported:
                continue
            imported.add(name)
            with user_code(self.folder):
                tree = ast.parse(self.path(name).read_bytes(), str(self.path(name)))
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    pending += [alias.name.partition(".")[0] for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module:
                    pending.append(node.module.partition(".")[0])
        return sorted(imported)

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each module's source."""
        return {name: hashlib.sha256(self.path(name).read_bytes()).hexdigest() for name in self.names}


_in_use: CustomModules | None = None


def use(folder: str | Path | None) -> None:
    """Use the custom modules in `folder`; with None, those of the compute package, if any.

    Raises
    ------
    SettingsError : no such folder, or no modules in it.
    """
    global _in_use
    if _in_use is not None:
        _unload(_in_use.folder)
    _in_use = None if folder is None else read_folder(folder)


def active() -> CustomModules | None:
    """Return the custom modules in use, or None."""
    return _in_use or _packaged()


def read_folder(folder: str | Path) -> CustomModules:
    """Return the modules in a folder (raises SettingsError as ``use``)."""
    path = Path(folder).resolve()
    if not path.is_dir():
        raise SettingsError(f"custom modules: {folder} is not a folder")
    names = tuple(sorted(file.stem for file in path.glob("*.py") if file.stem.isidentifier()))
    if not names:
        raise SettingsError(f"custom modules: {folder} has no Python modules (.py)")
    for name in names:
        if name in RESERVED or name in sys.stdlib_module_names:
            owner = "the compute package" if name in RESERVED else "Python"
            raise SettingsError(f"{path / name}.py has the name of a module of {owner}; rename it")
    return CustomModules(path, names)


def load(name: str, where: str):
    """Return the custom module `name`.

    Raises
    ------
    SettingsError : it is not in ``active``, or Python has another module of that name.
    UserCodeError : it cannot be imported.
    """
    custom = active()
    if custom is None:
        raise SettingsError(
            f"{where}: module {name!r} is not allowed: there are no custom modules. Set their folder with "
            "--with FOLDER or 'package: with:' in the case, and build the compute package with it"
        )
    if name not in custom.names:
        raise SettingsError(
            f"{where}: module {name!r} is not allowed. The modules in {custom.folder} are: {', '.join(custom.names)}"
        )
    if str(custom.folder) not in sys.path:
        sys.path.append(str(custom.folder))  # last, so that custom modules never hide installed ones
        importlib.invalidate_caches()
    with user_code(custom.folder):
        module = importlib.import_module(name)
    if not is_below(getattr(module, "__file__", None), custom.folder):
        raise SettingsError(f"{where}: {custom.path(name)} has the name of an installed module; rename it")
    return module


def calling(value) -> AbstractContextManager:
    """Return a context manager that turns errors of the custom function or class `value` into UserCodeError.

    It does nothing for functions and classes of the library.
    """
    custom = active()
    if custom is None or value.__module__ not in custom.names:
        return nullcontext()
    return user_code(custom.folder, value)


def is_below(file: str | None, folder: Path) -> bool:
    """Return whether `file` lies in `folder`."""
    return file is not None and Path(file).resolve().parent == folder


def _packaged() -> CustomModules | None:
    folder = Path(fedn_partial.__file__).resolve().parents[1] / FOLDER
    try:
        names = json.loads((folder / MANIFEST).read_text())["modules"]
    except OSError:
        return None
    except (ValueError, LookupError, TypeError) as error:
        raise SettingsError(f"{folder / MANIFEST} is damaged ({error!r}); rebuild the compute package") from None
    return CustomModules(folder, tuple(names))


def _unload(folder: Path) -> None:
    """Undo ``load`` for `folder`."""
    for name, module in list(sys.modules.items()):
        if "." not in name and is_below(getattr(module, "__file__", None), folder):  # resolving thousands takes 0.2 s
            del sys.modules[name]
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
