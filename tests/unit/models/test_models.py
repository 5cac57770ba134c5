"""The architectures against the papers' tables, and the refusal of options that no model has."""

import math
import subprocess
import sys

import numpy as np
import pytest

from fedn_partial import models
from fedn_partial.settings.schema import SettingsError

# Alawadi et al. 2023, Table 1: output of each convolution, its parameters, those of its BatchNormalization.
TABLE_1 = [
    ((32, 32, 64), 1_792, 256),
    ((32, 32, 64), 36_928, 256),
    ((16, 16, 128), 73_856, 512),
    ((16, 16, 128), 147_584, 512),
    ((8, 8, 256), 295_168, 1_024),
    ((8, 8, 256), 590_080, 1_024),
    ((8, 8, 256), 590_080, 1_024),
    ((4, 4, 512), 1_180_160, 2_048),
    ((4, 4, 512), 2_359_808, 2_048),
    ((4, 4, 512), 2_359_808, 2_048),
    ((2, 2, 512), 2_359_808, 2_048),
    ((2, 2, 512), 2_359_808, 2_048),
    ((2, 2, 512), 2_359_808, 2_048),
]


def sizes(model, kind=object):
    """Parameters of each weighted Keras layer of a kind."""
    return [
        sum(math.prod(weight.shape) for weight in layer.weights)
        for layer in model.layers
        if layer.weights and isinstance(layer, kind)
    ]


def test_vgg16_has_the_layers_of_table_1(build):
    from keras.layers import BatchNormalization, Conv2D, Dense

    model = build("vgg16")
    assert sizes(model, Conv2D) == [parameters for _, parameters, _ in TABLE_1]
    assert sizes(model, BatchNormalization) == [parameters for _, _, parameters in TABLE_1]
    assert sizes(model, Dense) == [5_130]
    assert [layer.output.shape[1:] for layer in model.layers if isinstance(layer, Conv2D)] == [s for s, _, _ in TABLE_1]


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("vgg16", {}, 14_736_714),
        ("vgg16", {"width": 0.5}, 3_691_178),
        ("vgg16", {"classes": 3}, 14_736_714 - 7 * 513),
        ("lstm_har", {}, 68_884),
        ("lstm_har", {"classes": 12}, 68_884 + 2 * 29),
        ("text_cnn", {}, 2_638_966),
        ("text_cnn", {"head": "sigmoid"}, 2_638_895),
        ("text_cnn", {"vocabulary": 50, "length": 40}, 2_638_966 - 19_950 * 128),
    ],
)
def test_total_parameters(build, name, options, parameters):
    assert sum(sizes(build(name, **options))) == parameters


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("lstm_har", {}, [54_800, 7_272, 3_650, 1_836, 1_036, 290]),
        ("text_cnn", {}, [2_560_000, 41_024, 37_800, 142]),
        ("text_cnn", {"head": "sigmoid"}, [2_560_000, 41_024, 37_800, 71]),
    ],
)
def test_parameters_of_each_layer(build, name, options, parameters):
    assert sizes(build(name, **options)) == parameters


@pytest.mark.parametrize(
    ("name", "options", "inputs", "outputs"),
    [
        ("vgg16", {"width": 1 / 64, "classes": 7}, (32, 32, 3), 7),
        ("lstm_har", {"classes": 4}, (1, 36), 4),
        ("text_cnn", {"vocabulary": 50, "length": 40}, (40,), 2),
        ("text_cnn", {"vocabulary": 50, "length": 8, "head": "sigmoid"}, (8,), 1),
    ],
)
def test_outputs_are_one_probability_a_class(build, name, options, inputs, outputs):
    model = build(name, **options)
    assert model.input.shape[1:] == inputs
    probabilities = np.asarray(model(np.random.default_rng(1).integers(0, 50, (5, *inputs))))
    assert probabilities.shape == (5, outputs)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    if outputs > 1:
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_batchnorm_momentum_reaches_every_batchnorm(build):
    from keras.layers import BatchNormalization

    model = build("vgg16", width=1 / 64, batchnorm_momentum=0.7)
    assert [layer.momentum for layer in model.layers if isinstance(layer, BatchNormalization)] == [0.7] * 13


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"name": "vgg61"}, ["name", "'vgg61'", "lstm_har, text_cnn, vgg16"]),
        ({"width": 1.0}, ["name", "None", "lstm_har, text_cnn, vgg16"]),
        ({"name": ["vgg16"]}, ["name", "['vgg16']", "lstm_har, text_cnn, vgg16"]),
        ({"name": "vgg16", "widht": 1.0}, ["'widht'", "'width'", "width, classes, batchnorm_momentum"]),
        ({"name": "lstm_har", "width": 1.0}, ["'width'", "Allowed are: classes"]),
        ({"name": "vgg16", "width": "half"}, ["width", "float", "'half'"]),
        ({"name": "vgg16", "width": 0}, ["width", f"at least {1 / 64}", "0.0"]),
        ({"name": "vgg16", "width": 4.5}, ["width", "at most 4", "4.5"]),
        ({"name": "vgg16", "width": math.nan}, ["width", f"at least {1 / 64}", "nan"]),
        ({"name": "vgg16", "batchnorm_momentum": 1.0}, ["batchnorm_momentum", "below 1", "1.0"]),
        ({"name": "vgg16", "classes": 1}, ["classes", "at least 2", "1"]),
        ({"name": "vgg16", "classes": 2.0}, ["classes", "int", "2.0"]),
        ({"name": "vgg16", "classes": True}, ["classes", "int", "True"]),
        ({"name": "text_cnn", "head": "relu"}, ["head", "softmax, sigmoid", "'relu'"]),
        ({"name": "text_cnn", "length": 7}, ["length", "at least 8", "7"]),
    ],
)
def test_wrong_section_is_refused_with_what_is_allowed(section, told):
    with pytest.raises(SettingsError) as error:
        models.options(section, "case.yaml: model")
    for words in ["case.yaml: model", *told]:
        assert words in str(error.value)


def test_build_refuses_what_options_refuses():
    with pytest.raises(SettingsError, match="width must be at least"):
        models.build({"name": "vgg16", "width": -1})


def test_options_are_checked_without_tensorflow():
    code = "import sys; from fedn_partial import models; models.options({'name': 'vgg16'}); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "fedn_partial.models.vgg16" in loaded
    assert not {"tensorflow", "keras"} & set(loaded)
