"""Classes by name, each imported from its module when it is looked up."""

from __future__ import annotations

import importlib


class Registry(dict):
    """``{name: class}`` of a package, made of ``{name: "module:Class"}``.

    The text of the server functions contains the modules of the names in its settings, and no others.
    """

    def __init__(self, package, places):
        super().__init__(places)
        self.package = package

    def __getitem__(self, name):
        return getattr(importlib.import_module(f"{self.package}.{self.module(name)}"), self.get(name).split(":")[1])

    def module(self, name):
        """Return the name of the module of the class `name`, relative to the package."""
        return super().__getitem__(name).split(":")[0]
