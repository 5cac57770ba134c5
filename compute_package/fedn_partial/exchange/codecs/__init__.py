"""Codecs by name, one per file.

A codec's file is imported when the codec is first used: ``fedn-partial doctor`` reads settings on machines where
importing NumPy may fail.
"""

from .base import Codec

__all__ = ["CODECS", "DEFAULT", "Codec"]


def _float32():
    from .float32 import Float32

    return Float32()


def _float16():
    from .float16 import Float16

    return Float16()


def _int8():
    from .int8 import Int8

    return Int8()


CODECS = {"float32": _float32, "float16": _float16, "int8": _int8}  # functions that return a codec
DEFAULT = "float32"
