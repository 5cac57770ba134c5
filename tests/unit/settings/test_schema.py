"""Fields of every type that a custom selector may declare are checked, and refused by key, type and value."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, Optional

import pytest

from fedn_partial.settings.schema import SettingsError, bounded, parse


@dataclasses.dataclass(frozen=True)
class Fields:
    groups: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    shares: dict[str, float] | None = None
    order: Literal["up", "down"] = "up"
    optional: Optional[int] = bounded(None, at_least=1)  # noqa: UP045 as a user may write it
    either: int | str | None = None
    number: float = bounded(1.0, at_least=0)
    finite: float = bounded(1.0, at_least=0, at_most=10)
    text: str = ""
    flag: bool = False


READ = {
    "groups": ([1, 2], (1, 2)),
    "names": (["a"], ("a",)),
    "shares": ({"a": 1}, {"a": 1.0}),
    "order": ("down", "down"),
    "optional": (None, None),
    "either": ("a", "a"),
    "number": (2, 2.0),
}


@pytest.mark.parametrize("key", READ)
def test_a_value_has_the_type_of_its_field(key):
    raw, value = READ[key]
    read = getattr(parse(Fields, {key: raw}, "case.yaml"), key)
    assert repr(read) == repr(value)


REFUSED = [
    ("groups", [1, "b"], "of type tuple[int, ...], found [1, 'b']"),
    ("groups", 1, "of type tuple[int, ...], found 1"),
    ("names", "ab", "a list of names, found 'ab'"),
    ("names", [1], "a list of names, found [1]"),
    ("shares", {"a": "x"}, "of type dict[str, float], found {'a': 'x'}"),
    ("order", "left", "one of up, down, found 'left'"),
    ("optional", "x", "of type int, found 'x'"),
    ("optional", True, "of type int, found True"),
    ("optional", 0, "at least 1, found 0"),
    ("either", 2.5, "of type int | str, found 2.5"),
    ("number", True, "of type float, found True"),
    ("number", "1e-3", "of type float, found '1e-3'"),
    ("number", math.nan, "at least 0, found nan"),
    ("number", -(10**400), "at least 0, found -inf"),
    ("finite", math.inf, "at most 10, found inf"),
    ("number", math.inf, "finite, found inf"),
    ("flag", 1, "of type bool, found 1"),
]


@pytest.mark.parametrize(("key", "raw", "told"), REFUSED)
def test_a_value_of_another_type_is_refused(key, raw, told):
    with pytest.raises(SettingsError) as refused:
        parse(Fields, {key: raw}, "case.yaml")
    assert str(refused.value) == f"case.yaml: {key} must be {told}"


def test_a_nul_character_is_refused():
    with pytest.raises(SettingsError, match="text must not contain NUL characters"):
        parse(Fields, {"text": "a\0"}, "case.yaml")
