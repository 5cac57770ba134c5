"""Sources of custom merge rules and codecs for FEDn's hooks process."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from fedn_partial.custom import modules
from fedn_partial.custom.errors import UserCodeError
from fedn_partial.exchange.merge_rules import CLASSES

LIBRARY = "fedn_partial.exchange"
BUNDLE = "fedn_partial_exchange"  # package name of the folder exchange in the hooks process
MODULES = ("merge_rules", "codecs")  # that a custom module may import from it


def read(name: str) -> str:
    """Return the source of the custom module `name`, with imports of the library redirected to the bundle.

    Raises
    ------
    UserCodeError : it imports a module that FEDn's hooks process lacks.
    """
    path = Path(modules.load(name, "server functions").__file__)
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        imported = []
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported = ["." * node.level + (node.module or "")]
        for module in imported:
            if not _is_allowed(module, isinstance(node, ast.ImportFrom)):
                raise UserCodeError(
                    f"{path}, line {node.lineno}: imports {module}, but merge rules and codecs run in FEDn's process, "
                    f"which has only NumPy, the standard library and 'from {LIBRARY}.{MODULES[0]} import ...'; move "
                    "them to a separate module"
                )
    return _rename_imports(path, text)


def bundle_imports(text: str) -> list[str]:
    """Return the modules of the bundle that `text`, returned by ``read``, imports."""
    imported = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{BUNDLE}."):
            module = node.module.removeprefix(f"{BUNDLE}.")
            imported.append(module)
            if module == "merge_rules":  # imports its classes when they are used
                names = [alias.name for alias in node.names if alias.name in CLASSES]
                imported += [f"{module}.{CLASSES.module(name)}" for name in names]
    return imported


def _rename_imports(path: Path, text: str) -> str:
    """Return `text` with its imports of the library made ones of the bundle; lines and their numbers stay."""
    lines = text.splitlines(keepends=True)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{LIBRARY}."):
            line = lines[node.lineno - 1].encode()
            before, statement = line[: node.col_offset], line[node.col_offset :]
            renamed = statement.replace(f"{LIBRARY}.".encode(), f"{BUNDLE}.".encode(), 1)
            if renamed == statement:
                raise UserCodeError(f"{path}, line {node.lineno}: write 'from {node.module} import' in one line")
            lines[node.lineno - 1] = (before + renamed).decode()
    return "".join(lines)


def _is_allowed(module: str, is_from: bool) -> bool:
    if module.partition(".")[0] in (*sys.stdlib_module_names, "numpy"):
        return True
    return is_from and module in [f"{LIBRARY}.{name}" for name in MODULES]
