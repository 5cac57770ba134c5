"""Lookup of custom codecs and merge rules, whose modules are bundled with this folder's (see server_functions)."""

from __future__ import annotations

import sys


def find(name, classes):
    """Return the class `name`: a key of `classes`, or ``my_module:MyClass`` of a custom module."""
    module, colon, attribute = name.partition(":")
    return getattr(sys.modules[f"{__package__}.custom.{module}"], attribute) if colon else classes[name]
