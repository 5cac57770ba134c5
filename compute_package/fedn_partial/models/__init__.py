"""The model architectures, one file each, by name.

A new model is one module with a frozen dataclass ``Options`` and ``build(options) -> keras.Model``,
and one line in ``MODELS``.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

from fedn_partial.models import lstm_har, text_cnn, vgg16
from fedn_partial.settings.schema import parse_named

# None of these modules imports TensorFlow before it builds, so that the command line can check a case at once.
MODELS = {"lstm_har": lstm_har, "text_cnn": text_cnn, "vgg16": vgg16}


def options(section: dict, where: str = "model"):
    """Return the options of the model that a `model:` section names, as that model's ``Options``.

    Raises
    ------
    SettingsError : unknown model or option, wrong type, impossible value.
    """
    return parse_named(section, "name", {name: module.Options for name, module in MODELS.items()}, where)


def build(section: dict, empty: bool = False):
    """Build the Keras model that a `model:` section names (raises SettingsError).

    Parameters
    ----------
    empty : leave out the random initial values, which cost a device time and memory: weights will be put in.
    """
    checked = options(section)  # first: the name may be none
    with _zeros() if empty else nullcontext():
        return MODELS[section["name"]].build(checked)


@contextmanager
def _zeros():
    """Let every layer's weights begin as zeros, whatever its initialiser."""
    import keras

    original = keras.layers.Layer.add_weight

    def add_weight(layer, *args, **options):
        return original(layer, *args, **{**options, "initializer": "zeros"})

    keras.layers.Layer.add_weight = add_weight
    try:
        yield
    finally:
        keras.layers.Layer.add_weight = original
