"""Custom codecs and merge rules, whose modules travel beside those of this folder (see the seed model's bundle)."""

from __future__ import annotations

import sys


def find(name, classes):
    """Return the class called `name`: one of `classes`, or ``my_module:MyClass`` of a custom module."""
    module, colon, attribute = name.partition(":")
    return getattr(sys.modules[f"{__package__}.custom.{module}"], attribute) if colon else classes[name]
