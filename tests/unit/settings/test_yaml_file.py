"""YAML files: whatever is in them, the error names the file."""

import pytest

from fedn_partial.settings.schema import SettingsError, bounded, parse
from fedn_partial.settings.yaml_file import parse_yaml, read_yaml

DAMAGED = {
    "no date": "a: 2026-02-30",
    "a number of 5,000 digits": f"a: {'9' * 5000}",
    "within itself": "a: &a [*a, {*a: 1}]",
    "very deep": "[" * 5000,
    "no YAML": "a: [",
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_what_yaml_cannot_read_is_refused_by_file(tmp_path, text):
    (tmp_path / "case.yaml").write_text(text)
    with pytest.raises(SettingsError, match=r"case\.yaml: is not YAML"):
        read_yaml(tmp_path / "case.yaml")


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "b: {a: 1, a: 2}"])
@pytest.mark.parametrize("as_text", [False, True])
def test_a_key_that_is_there_twice_is_refused(text, as_text):
    with pytest.raises(SettingsError, match="'a' is there twice"):
        parse_yaml(text, "case.yaml", as_text)


def test_merged_keys_may_be_overridden():
    assert parse_yaml("x: &x {a: 1}\ny: {<<: *x, a: 2}", "case.yaml")["y"] == {"a": 2}


def test_a_number_beyond_every_float_is_out_of_bounds():
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Rates:
        rate: float = bounded(1.0, at_most=10)

    with pytest.raises(SettingsError, match="rate must be at most 10"):
        parse(Rates, {"rate": 10**400}, "case.yaml")


NUMBERS = {"1e-3": 0.001, "1E5": 1e5, "-1.5e3": -1500.0, ".5e+3": 500.0, "1e": "1e", "'1e-3'": "1e-3", "1e-3x": "1e-3x"}


@pytest.mark.parametrize(("written", "value"), NUMBERS.items(), ids=NUMBERS)
def test_a_number_with_an_exponent_is_a_number_as_in_yaml_1_2(written, value):
    assert repr(parse_yaml(f"a: {written}", "case.yaml")["a"]) == repr(value)
    assert parse_yaml(f"a: {written}", "case.yaml", as_text=True)["a"] == written.strip("'")
