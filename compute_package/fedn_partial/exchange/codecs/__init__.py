"""Codecs by name, one per file.

A codec's file is imported when the codec is first used: ``fedn-partial doctor`` reads settings on machines where
importing NumPy may fail.
"""

from ..custom import Registry
from .base import Codec

__all__ = ["CODECS", "DEFAULT", "Codec"]
CODECS = Registry(__package__, {"float32": "float32:Float32", "float16": "float16:Float16", "int8": "int8:Int8"})
DEFAULT = "float32"
