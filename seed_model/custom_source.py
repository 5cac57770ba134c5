"""Sources of custom merge rules and codecs for FEDn's hooks process."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from fedn_partial.custom import modules
from fedn_partial.custom.errors import UserCodeError

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
    return re.sub(rf"^(\s*from ){re.escape(LIBRARY)}\.", rf"\1{BUNDLE}.", text, flags=re.MULTILINE)


def _is_allowed(module: str, is_from: bool) -> bool:
    if module.partition(".")[0] in (*sys.stdlib_module_names, "numpy"):
        return True
    return is_from and module in [f"{LIBRARY}.{name}" for name in MODULES]
