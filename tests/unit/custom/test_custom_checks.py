"""What of custom modules is refused before a session starts, and what is not."""

import keras
import pytest

from fedn_partial.custom.errors import UserCodeError
from fedn_partial.seed_model import custom_source, server_functions
from fedn_partial.seed_model.case_checks import check_case
from fedn_partial.settings.case import Case
from fedn_partial.settings.schema import SettingsError, parse
from fedn_partial.submodel.layers import read_layers

MODEL = """
    import keras
    from keras import layers


    def net(*, end: str = "softmax", units: int = 3) -> keras.Model:
        return keras.Sequential([keras.Input((4,)), layers.Dense(5), layers.Dense(units, activation=end)])


    def words() -> keras.Model:
        inputs = keras.Input((7,), dtype="int32")
        outputs = layers.Dense(2, activation="softmax")(layers.Flatten()(layers.Embedding(9, 2)(inputs)))
        return keras.Model(inputs, outputs)


    def steps() -> keras.Model:
        return keras.Sequential([keras.Input((4, 2)), layers.Dense(3, activation="softmax")])
"""


def case(model="models_of_mine:net", merge="all_clients", **options):
    raw = {"name": "c", "model": {"name": model, **options}, "selection": {"selector": "all"}, "merge": merge}
    return parse(Case, raw, "case.yaml")


@pytest.mark.parametrize("options", [{}, {"end": "sigmoid", "units": 1}])
def test_a_model_of_probabilities_is_taken(custom, options):
    custom(models_of_mine=MODEL)
    assert len(check_case(case(**options))) == 2
    assert len(check_case(case("models_of_mine:words"))) == 2


@pytest.mark.parametrize("options", [{"end": "linear"}, {"end": "relu"}, {"end": "linear", "units": 1}])
def test_a_model_of_logits_is_refused(custom, options):
    """Its loss would be the cross-entropy of numbers that are no probabilities, without a word."""
    custom(models_of_mine=MODEL)
    with pytest.raises(UserCodeError, match=r"models_of_mine\.py.*not probabilities.*softmax"):
        check_case(case(**options))


def test_a_model_with_an_output_per_time_step_is_refused(custom):
    custom(models_of_mine=MODEL)
    with pytest.raises(UserCodeError, match=r"output has shape \(None, 4, 3\), expected \(None, classes\)"):
        check_case(case("models_of_mine:steps"))


def test_a_rule_on_top_of_one_of_ours_is_tried_with_the_settings_that_it_will_get(custom):
    rules = """
        from fedn_partial.exchange.merge_rules import Shrunk


        class Half(Shrunk):
            def step_size(self, weight, contributors, total):
                rounds = self.settings["client"]["session"]["rounds"]
                return super().step_size(weight, contributors, total) * rounds / 20
    """
    custom(rules_of_mine=rules, models_of_mine=MODEL)
    assert check_case(case(merge="rules_of_mine:Half"))


@pytest.mark.parametrize("name", ["train", "validate", "startup", "fedn_partial", "json"])
def test_a_module_that_devices_would_not_find_is_refused(custom, name):
    with pytest.raises(SettingsError, match=rf"{name}\.py has the name of a module of (Python|the compute package)"):
        custom(**{name: MODEL})


IMPORTS = {
    "from fedn_partial.exchange.codecs import Codec": "from fedn_partial_exchange.codecs import Codec",
    "import math; from fedn_partial.exchange.codecs import Codec": "import math; from fedn_partial_exchange.codecs im",
    "if True: from fedn_partial.exchange.codecs import (\n        Codec)": "if True: from fedn_partial_exchange.codecs",
    "ä = 1; from fedn_partial.exchange.codecs import Codec": "ä = 1; from fedn_partial_exchange.codecs import Codec",
}


@pytest.mark.parametrize("line", IMPORTS)
def test_every_import_of_the_library_is_one_of_the_bundle(custom, line):
    custom(codecs_of_mine=f"{line}\nTEXT = 'from fedn_partial.exchange.codecs import x'\n")
    source = custom_source.read("codecs_of_mine")
    assert source.startswith(IMPORTS[line])
    assert "TEXT = 'from fedn_partial.exchange.codecs import x'" in source


def test_an_import_in_two_lines_is_refused(custom):
    custom(codecs_of_mine="from \\\n    fedn_partial.exchange.codecs import Codec\n")
    with pytest.raises(UserCodeError, match=r"codecs_of_mine\.py, line 1: write .* in one line"):
        custom_source.read("codecs_of_mine")


def test_the_statistics_of_a_nested_model_are_told_apart():
    """Their variances are pooled with the means of the same normalisation."""
    inner = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(),
        ],
        name="inner",
    )
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax", name="end")(inner(inputs)))
    layers = read_layers(model)
    names = [tensor.name for layer in layers for tensor in layer.tensors]
    assert len(set(names)) == len(names)
    settings = server_functions.session_settings(case("vgg16"), layers, "s", "")
    weights = {index: weight.path for index, weight in enumerate(model.weights)}
    pairs = {weights[variance]: weights[mean] for variance, mean in settings["variances"].items()}
    assert len(pairs) == 2
    assert all(mean == variance.replace("moving_variance", "moving_mean") for variance, mean in pairs.items())
