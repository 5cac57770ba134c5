"""Model architectures by name, one file each.

A new model is a module with a frozen dataclass ``Options`` and ``build(options) -> keras.Model``, registered in
``MODELS``; or a function in a custom module, see ``fedn_partial.custom.model_function``.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

from fedn_partial.custom import model_function, names
from fedn_partial.models import lstm_har, text_cnn, vgg16
from fedn_partial.settings.schema import parse, parse_named

# These modules import TensorFlow only to build a model, so that the command line checks a case fast.
MODELS = {"lstm_har": lstm_har, "text_cnn": text_cnn, "vgg16": vgg16}


def options(section: dict, where: str = "model"):
    """Return the options in a `model:` section, as the model's ``Options``.

    Raises
    ------
    SettingsError : unknown model or option, wrong type, invalid value.
    UserCodeError : a custom model that cannot be imported, or has unsupported parameters.
    """
    if names.is_custom(section.get("name")):
        others = {key: value for key, value in section.items() if key != "name"}
        return parse(model_function.options_class(_custom(section, where)), others, where)
    return parse_named(section, "name", {name: module.Options for name, module in MODELS.items()}, where)


def build(section: dict, empty: bool = False):
    """Build the Keras model of a `model:` section (raises as ``options``).

    Keras' numbering of unnamed layers is reset, so that equal sections give equal layer names.

    Parameters
    ----------
    empty : initialise weights with zeros, which saves time and memory where they are replaced.
    """
    checked = options(section)  # first: the name may be missing
    from keras.src.utils.naming import reset_uids  # keras.backend.clear_session resets random seeds as well

    reset_uids()
    with _zeros() if empty else nullcontext():
        if names.is_custom(section["name"]):
            return model_function.build(_custom(section, "model"), checked)
        return MODELS[section["name"]].build(checked)


def _custom(section: dict, where: str):
    """Return the custom function that builds the model."""
    return names.find_function(section["name"], "keras.Model", f"{where}: name")


@contextmanager
def _zeros():
    """Initialise all weights with zeros, regardless of initialisers."""
    import keras

    original = keras.layers.Layer.add_weight

    def add_weight(layer, *args, **options):
        return original(layer, *args, **{**options, "initializer": "zeros"})

    keras.layers.Layer.add_weight = add_weight
    try:
        yield
    finally:
        keras.layers.Layer.add_weight = original
