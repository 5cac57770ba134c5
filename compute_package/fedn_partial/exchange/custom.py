"""Lookup of codecs, merge rules and server optimizers by name.

Custom modules are bundled with this folder's in the text of the server functions. Of the modules in a ``Registry``, the
text contains those that its settings name.
"""

from __future__ import annotations

import importlib
import sys


class Registry:
    """Classes of a package by name, each imported from its module when it is looked up.

    Parameters
    ----------
    places : {name: "module:Class"}.
    """

    def __init__(self, package, places):
        self.package, self.places = package, places

    def __iter__(self):
        return iter(self.places)

    def __getitem__(self, name):
        return getattr(importlib.import_module(f"{self.package}.{self.module(name)}"), self.places[name].split(":")[1])

    def module(self, name):
        """Return the name of the module of the class `name`, relative to the package."""
        return self.places[name].split(":")[0]


def find(name, classes):
    """Return the class `name`: a key of `classes`, or ``my_module:MyClass`` of a custom module."""
    module, colon, attribute = name.partition(":")
    return getattr(sys.modules[f"{__package__}.custom.{module}"], attribute) if colon else classes[name]
