"""YAML files of keys and values, read strictly."""

from __future__ import annotations

import re
from pathlib import Path

from fedn_partial.settings.schema import SettingsError

EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")  # YAML 1.1 takes 1e-3 for text


def read_yaml(path: str | Path, as_text: bool = False) -> dict:
    """Read a YAML file of keys and values.

    Parameters
    ----------
    as_text : whether every value stays the text that the file has.

    Raises
    ------
    SettingsError : no such file, not YAML, a key that is there twice, or not a mapping.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not YAML: {error}") from None
    raw = parse_yaml(text, str(path), as_text)
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: expected keys and values, found {type(raw).__name__}")
    return raw


def parse_yaml(text: str, where: str, as_text: bool = False):
    """Return what `text`, which was read from `where`, holds as YAML (raises SettingsError as ``read_yaml``)."""
    import yaml

    class Loader(yaml.BaseLoader if as_text else yaml.SafeLoader):
        """YAML takes the last of two equal keys; here they are refused."""

        def construct_mapping(self, node, deep=False):
            seen = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                    line = key.start_mark.line + 1
                    raise yaml.constructor.ConstructorError(problem=f"line {line}: key {key.value!r} is there twice")
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    if not as_text:
        Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)
    # A date that does not exist, a number of thousands of digits, a structure that holds itself or is very deep.
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        reason = getattr(error, "problem", None) if not getattr(error, "problem_mark", None) else None
        raise SettingsError(f"{where}: is not YAML: {reason or str(error) or type(error).__name__}") from None
