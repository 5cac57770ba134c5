"""Reading keys and values into frozen dataclasses, strictly.

Settings, selectors and model options are all dataclasses read by ``parse``. Anything unknown, of the wrong
type or impossible is refused with the key, the value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing

from fedn_partial.errors import FednPartialError


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
    if isinstance(hint, types.UnionType):  # "int | None"
        if raw is None:
            return None
        hint = next(option for option in typing.get_args(hint) if option is not types.NoneType)
    if dataclasses.is_dataclass(hint):
        return parse(hint, raw, where)
    if typing.get_origin(hint) is tuple:  # "tuple[str, ...]", or of a dataclass
        item_hint = typing.get_args(hint)[0]
        if dataclasses.is_dataclass(item_hint):
            if not isinstance(raw, (list, tuple)):
                keys = ", ".join(spec.name for spec in dataclasses.fields(item_hint))
                raise SettingsError(f"{where} must be a list, each of its items with the keys {keys}; found {raw!r}")
            return tuple(parse(item_hint, item, f"{where}: number {n}") for n, item in enumerate(raw, start=1))
        if not isinstance(raw, (list, tuple)) or not all(isinstance(item, str) for item in raw):
            raise SettingsError(f"{where} must be a list of names, found {raw!r}")
        return tuple(raw)
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        raw = float(raw) if abs(raw) < 2**1023 else math.inf if raw > 0 else -math.inf
    if hint is float and isinstance(raw, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", raw):
        raw = float(raw)  # YAML 1.1 takes 1e-3 for text
    if not isinstance(raw, hint) or (isinstance(raw, bool) and hint is not bool):
        raise SettingsError(f"{where} must be of type {hint.__name__}, found {raw!r}")
    if isinstance(raw, str) and "\0" in raw:
        raise SettingsError(f"{where} must not contain NUL characters, found {raw!r}")
    _check_bounds(raw, bounds, where)
    return raw


def _check_bounds(value, bounds, where: str) -> None:
    # Written so that NaN passes none of them.
    checks = {
        "at_least": (lambda bound: value >= bound, "at least"),
        "at_most": (lambda bound: value <= bound, "at most"),
        "above": (lambda bound: value > bound, "above"),
        "below": (lambda bound: value < bound, "below"),
        "one_of": (lambda bound: value in bound, "one of"),
        "matches": (lambda bound: re.fullmatch(bound, value), "made of"),
    }
    for name, bound in bounds.items():
        passes, wording = checks[name]
        if not passes(bound):
            shown = ", ".join(bound) if name == "one_of" else bound
            raise SettingsError(f"{where} must be {wording} {shown}, found {value!r}")
