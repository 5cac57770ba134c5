"""Codecs by name, one per file."""

from .base import Codec
from .float16 import Float16
from .float32 import Float32
from .int8 import Int8

__all__ = ["CODECS", "DEFAULT", "Codec"]
CODECS = {"float32": Float32, "float16": Float16, "int8": Int8}
DEFAULT = "float32"
