"""A model that is a function of the user's own: its options, and what is refused at which line."""

import pytest
from sources import line_of

from fedn_partial import models
from fedn_partial.custom.errors import UserCodeError
from fedn_partial.seed_model.case_checks import check_case
from fedn_partial.settings.case import Case
from fedn_partial.settings.schema import SettingsError
from fedn_partial.submodel.layers import fingerprint, read_layers

MODELS = """
    from __future__ import annotations

    import keras
    from keras import layers


    def small_cnn(*, filters: int = 4, rate: float | None = None, classes: int) -> keras.Model:
        return keras.Sequential([
            keras.Input((8, 8, 1)),
            layers.Conv2D(filters, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(16, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ])


    def two_outputs() -> keras.Model:
        inputs = keras.Input((4,))
        return keras.Model(inputs, [layers.Dense(2)(inputs), layers.Dense(3)(inputs)])


    def unbuilt() -> keras.Model:
        return keras.Sequential([layers.Dense(2)])


    def forgets() -> keras.Model:
        keras.Input((4,))


    def fails(units: int = 3) -> keras.Model:
        return keras.Sequential([keras.Input((4,)), layers.Dense(-units)])


    def without_annotation(size=3, *, name) -> keras.Model:
        pass


    def with_rest(**options: int) -> keras.Model:
        pass


    def with_list(sizes: list[int] = None) -> keras.Model:
        pass


    def helper(x):
        return x


    class Block(layers.Layer):
        pass
"""


def section(name, **options):
    return {"name": f"my_models:{name}", **options}


def test_parameters_are_the_models_options(custom):
    custom(my_models=MODELS)
    options = models.options(section("small_cnn", classes=3, rate=1))
    assert (options.filters, options.rate, options.classes) == (4, 1.0, 3)
    model = models.build(section("small_cnn", filters=2, classes=3))
    assert model.output.shape == (None, 3) and model.layers[1].filters == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "model: key 'classes' is missing"),
        ({"classes": "3"}, "model: classes must be of type int, found '3'"),
        ({"classes": 3, "filter": 4}, "model: unknown key 'filter', did you mean 'filters'?"),
    ],
)
def test_options_are_checked_as_those_of_any_model(options, told, custom):
    custom(my_models=MODELS)
    with pytest.raises(SettingsError) as raised:
        models.options(section("small_cnn", **options))
    assert told in str(raised.value)


def test_layers_without_names_have_the_same_names_in_every_build(custom):
    custom(my_models=MODELS)
    first, second = (read_layers(models.build(section("small_cnn", classes=3), empty=True)) for _ in range(2))
    assert [layer.name for layer in first] == ["conv2d", "dense", "dense_1"]
    assert fingerprint(first) == fingerprint(second)


def test_a_case_of_ones_own_model_is_checked(custom):
    custom(my_models=MODELS)
    case = Case(name="x", model=section("small_cnn", classes=3), selection={"selector": "uniform", "layers": 2})
    assert [layer.name for layer in check_case(case)] == ["conv2d", "dense", "dense_1"]


@pytest.mark.parametrize(
    ("name", "line", "told"),
    [
        ("two_outputs", "def two_outputs", "has 2 outputs, expected one"),
        ("unbuilt", "def unbuilt", "has no known input shape; start it with keras.Input(shape)"),
        ("forgets", "def forgets", "returned None, expected a keras.Model"),
        ("fails", "layers.Dense(-units)", "ValueError: "),
        ("without_annotation", "def without_annotation", "parameter 'name' of without_annotation needs an annotation"),
        ("with_rest", "def with_rest", "cannot be an option; use named parameters"),
        ("with_list", "def with_list", "parameter 'sizes' of with_list needs an annotation: int, float, str, bool"),
        (
            "helper",
            "def helper",
            "is not a function with the annotation '-> keras.Model'. Allowed are: my_models:",
        ),
        ("Block", "class Block", "is not a function with the annotation '-> keras.Model'"),
    ],
)
def test_errors_name_file_and_line(name, line, told, custom):
    folder = custom(my_models=MODELS)
    options = {"name": "x"} if name == "without_annotation" else {}
    with pytest.raises(UserCodeError) as raised:
        models.build({**options, **section(name)})
    message = str(raised.value)
    assert message.startswith(f"{folder / 'my_models.py'}, line {line_of(MODELS, line)}: ") and told in message


@pytest.mark.parametrize("name", ["os:system", "keras:Model", "my_models:keras", "my_models:layers"])
def test_other_functions_are_refused(name, custom):
    custom(my_models=MODELS)
    with pytest.raises(SettingsError, match="model: name: "):
        models.build({"name": name})
