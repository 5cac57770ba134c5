"""The model architectures, one file each, by name.

A new model is one module with a frozen dataclass ``Options`` and ``build(options) -> keras.Model``,
and one line in ``MODELS``.
"""

from __future__ import annotations

import importlib

from fedn_partial.schema import SettingsError, parse

MODELS = {
    "lstm_har": "fedn_partial.models.lstm_har",
    "text_cnn": "fedn_partial.models.text_cnn",
    "vgg16": "fedn_partial.models.vgg16",
}


def options(section: dict, where: str = "model"):
    """Return the options of the model that a `model:` section names, as that model's ``Options``.

    Does not import TensorFlow, so that the command line can check a case at once.

    Raises
    ------
    SettingsError : unknown model or option, wrong type, impossible value.
    """
    given = dict(section)
    name = given.pop("name", None)
    if not isinstance(name, str) or name not in MODELS:
        raise SettingsError(f"{where}: name {name!r} is unknown. Allowed are: {', '.join(sorted(MODELS))}")
    return parse(importlib.import_module(MODELS[name]).Options, given, where)


def build(section: dict):
    """Build the Keras model that a `model:` section names (raises SettingsError)."""
    checked = options(section)
    return importlib.import_module(MODELS[section["name"]]).build(checked)
