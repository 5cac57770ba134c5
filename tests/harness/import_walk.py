"""Imports in the modules of a folder, read from their syntax trees: none of them is executed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """One import statement, at the top of a module or in a function."""

    path: str  # of the module, relative to the folder
    line: int
    modules: tuple[str, ...]  # in full
    members: tuple[str, ...] = ()  # what is imported from the module, in full: may be modules too
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {', '.join(self.members or self.modules)}"


def imports(folder: Path, package: str) -> Iterator[Import]:
    """Read all imports below `folder`, which holds the package called `package`."""
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        parents = [package, *relative.parts[:-1]]
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            place = relative.as_posix(), getattr(node, "lineno", 0)
            if isinstance(node, ast.Import):
                yield Import(*place, tuple(alias.name for alias in node.names))
            elif isinstance(node, ast.ImportFrom):
                module = _resolve(node, ".".join(parents))
                members = tuple(f"{module}.{alias.name}" for alias in node.names)
                yield Import(*place, (module,), members, relative=node.level > 0)
            elif isinstance(node, ast.Call) and (name := _imported_by_call(node)):
                yield Import(*place, (name,))


def imports_of(folder: Path, package: str, *modules: str) -> list[Import]:
    """Return the imports below `folder` of one of `modules`, or of a module in one of them."""
    return [
        statement
        for statement in imports(folder, package)
        if any(
            f"{name}.".startswith(f"{module}.") for name in statement.modules + statement.members for module in modules
        )
    ]


def _resolve(node: ast.ImportFrom, package: str) -> str:
    """Return the full name of the module that a module in `package` imports from."""
    parents = package.split(".")
    base = parents[: len(parents) - node.level + 1] if node.level else []
    return ".".join([*base, *([node.module] if node.module else [])])


def _imported_by_call(node: ast.Call) -> str | None:
    """Return the name of the module if this is import_module("name") or __import__("name"), otherwise None."""
    if ast.unparse(node.func).rpartition(".")[2] not in ("import_module", "__import__") or not node.args:
        return None
    name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
    return name if isinstance(name, str) else None
