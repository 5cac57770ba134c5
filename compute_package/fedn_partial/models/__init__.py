"""The model architectures, one file each, by name.

A new model is one module with a frozen dataclass ``Options`` and ``build(options) -> keras.Model``,
and one line in ``MODELS``; or a function in a custom module, see ``fedn_partial.custom.model_function``.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

from fedn_partial.custom import model_function, names
from fedn_partial.models import lstm_har, text_cnn, vgg16
from fedn_partial.settings.schema import parse, parse_named

# None of these modules imports TensorFlow before it builds, so that the command line can check a case at once.
MODELS = {"lstm_har": lstm_har, "text_cnn": text_cnn, "vgg16": vgg16}


def options(section: dict, where: str = "model"):
    """Return the options of the model that a `model:` section names, as that model's ``Options``.

    Raises
    ------
    SettingsError : unknown model or option, wrong type, impossible value.
    UserCodeError : a custom model that cannot be imported, or whose parameters cannot be options.
    """
    if names.is_custom(section.get("name")):
        others = {key: value for key, value in section.items() if key != "name"}
        return parse(model_function.options_class(_custom(section, where)), others, where)
    return parse_named(section, "name", {name: module.Options for name, module in MODELS.items()}, where)


def build(section: dict, empty: bool = False):
    """Build the Keras model that a `model:` section names (raises as ``options``).

    Keras numbers the layers that have no name of their own from the beginning, so that equal sections give equal names.

    Parameters
    ----------
    empty : leave out the random initial values, which cost a device time and memory: weights will be put in.
    """
    checked = options(section)  # first: the name may be none
    from keras.src.utils.naming import reset_uids  # keras.backend.clear_session resets random seeds as well

    reset_uids()
    with _zeros() if empty else nullcontext():
        if names.is_custom(section["name"]):
            return model_function.build(_custom(section, "model"), checked)
        return MODELS[section["name"]].build(checked)


def _custom(section: dict, where: str):
    """Return the function in a custom module that builds the model."""
    return names.find_function(section["name"], "keras.Model", f"{where}: name")


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
