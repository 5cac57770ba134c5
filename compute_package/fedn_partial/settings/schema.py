"""Reading keys and values into frozen dataclasses, strictly.

Settings, selectors and model options are all dataclasses read by ``parse``. Anything unknown, of the wrong
type or impossible is refused with the key, the value and what is allowed. msgspec checks types; keys, bounds and
the wording of errors are from here, because msgspec names neither the allowed keys nor the value.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import operator
import re
import types
import typing

import msgspec

from fedn_partial.errors import FednPartialError

# Argument of ``bounded``: the check, which NaN must not pass, and its wording.
BOUNDS = {
    "at_least": (operator.ge, "at least"),
    "at_most": (operator.le, "at most"),
    "above": (operator.gt, "above"),
    "below": (operator.lt, "below"),
    "one_of": (lambda value, allowed: value in allowed, "one of"),
    "matches": (lambda value, pattern: re.fullmatch(pattern, value), "made of"),
}


class SettingsError(FednPartialError):
    """A setting that is unknown, missing, of the wrong type, or impossible; the message says what is allowed."""


def bounded(default=dataclasses.MISSING, **bounds):
    """Return a dataclass field with bounds: `at_least`, `at_most`, `above`, `below`, `one_of`, `matches`."""
    return dataclasses.field(default=default, metadata=bounds)


def parse(cls, raw, where: str):
    """Build the dataclass `cls` from the mapping `raw` that was read from `where`.

    Raises
    ------
    SettingsError : unknown or missing key, wrong type, value out of bounds, or what ``cls.__post_init__`` refuses.
    """
    if not isinstance(raw, dict):
        raise SettingsError(f"{where}: expected keys and values, found {raw!r}")
    hints = typing.get_type_hints(cls)
    known = {spec.name: spec for spec in dataclasses.fields(cls)}
    for key in raw:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f", did you mean {close[0]!r}?" if close else "."
            raise SettingsError(f"{where}: unknown key {key!r}{hint} Allowed are: {', '.join(known) or 'none'}")
    values = {}
    for name, spec in known.items():
        if name in raw:
            values[name] = _value(hints[name], raw[name], spec.metadata, f"{where}: {name}")
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise SettingsError(f"{where}: key {name!r} is missing")
    try:
        return cls(**values)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None


def parse_named(section: dict, tag: str, classes, where: str):
    """Build the dataclass that the key `tag` of `section` names, from the section's other keys.

    Parameters
    ----------
    classes : {name: dataclass}, the allowed names.

    Raises
    ------
    SettingsError : unknown name, or what ``parse`` refuses.
    """
    fields = dict(section)
    name = fields.pop(tag, None)
    if not isinstance(name, str) or name not in classes:
        raise SettingsError(f"{where}: {tag} {name!r} is unknown. Allowed are: {', '.join(classes)}")
    return parse(classes[name], fields, where)


def _value(hint, raw, bounds, where: str):
    options = typing.get_args(hint)
    if types.NoneType in options:  # "int | None"
        if raw is None:
            return None
        hint = functools.reduce(operator.or_, (option for option in options if option is not types.NoneType))
    if dataclasses.is_dataclass(hint):
        return parse(hint, raw, where)
    if options and dataclasses.is_dataclass(options[0]):  # "tuple[SimulatedDevice, ...]"
        if not isinstance(raw, (list, tuple)):
            keys = ", ".join(spec.name for spec in dataclasses.fields(options[0]))
            raise SettingsError(f"{where} must be a list, each of its items with the keys {keys}; found {raw!r}")
        return tuple(parse(options[0], item, f"{where}: number {n}") for n, item in enumerate(raw, start=1))
    if hint is float and type(raw) is int and abs(raw) >= 2**1023:  # msgspec refuses it for its type
        raw = math.inf if raw > 0 else -math.inf
    try:
        value = msgspec.convert(raw, hint)
    except msgspec.ValidationError:
        raise SettingsError(f"{where} must be {_describe(hint)}, found {raw!r}") from None
    if isinstance(value, str) and "\0" in value:
        raise SettingsError(f"{where} must not contain NUL characters, found {value!r}")
    for name, bound in bounds.items():
        passes, wording = BOUNDS[name]
        if not passes(value, bound):
            shown = ", ".join(bound) if name == "one_of" else bound
            raise SettingsError(f"{where} must be {wording} {shown}, found {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{where} must be finite, found {value!r}")
    return value


def _describe(hint) -> str:
    if hint == tuple[str, ...]:
        return "a list of names"
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    return f"of type {hint if typing.get_args(hint) else hint.__name__}"
