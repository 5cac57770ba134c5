"""The table of layers against Keras' own weights, and the operations of a forward pass against the formulas."""

import dataclasses

import pytest

from fedn_partial.errors import FednPartialError
from fedn_partial.submodel.layers import Layer, Tensor, fingerprint, pick, read_layers, tensor_list

TINY = {"vgg16": {"width": 1 / 64}, "lstm_har": {}, "text_cnn": {"vocabulary": 50, "length": 40}}


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("vgg16", [*(f"conv{index}" for index in range(13)), "dense"]),
        ("lstm_har", ["lstm", "dense0", "dense1", "dense2", "dense3", "output"]),
        ("text_cnn", ["embedding", "conv", "lstm", "output"]),
    ],
)
def test_layers_stand_in_order_from_input_to_output(build, name, layers):
    assert [layer.name for layer in read_layers(build(name, **TINY[name]))] == layers


@pytest.mark.parametrize("name", TINY)
def test_tensors_are_the_weights_of_the_model_each_once(build, name):
    model = build(name, **TINY[name])
    weights = model.get_weights()
    layers = read_layers(model)
    assert sorted(tensor.index for layer in layers for tensor in layer.tensors) == list(range(len(weights)))
    tensors = tensor_list(layers)
    assert [(tensor.shape, tensor.dtype) for tensor in tensors] == [(w.shape, str(w.dtype)) for w in weights]
    assert [tensor.size for tensor in tensors] == [w.size for w in weights]
    for layer in layers:
        nbytes = sum(weights[tensor.index].nbytes for tensor in layer.tensors)
        assert (layer.nbytes, layer.parameters) == (nbytes, nbytes // 4)


def test_tensors_of_a_layer_belong_to_its_keras_layers(build):
    model = build("vgg16", **TINY["vgg16"])
    for layer in read_layers(model):
        wanted = [weight for name in layer.keras_layers for weight in model.get_layer(name).weights]
        found = [model.weights[tensor.index] for tensor in layer.tensors]
        assert {id(weight) for weight in found} == {id(weight) for weight in wanted}


def test_batchnorm_belongs_to_the_layer_before_it(build):
    layers = read_layers(build("vgg16", **TINY["vgg16"]))
    assert [layer.keras_layers for layer in layers[:-1]] == [(f"conv{i}", f"conv{i}_bn") for i in range(13)]
    assert layers[-1].keras_layers == ("dense",)
    assert sorted(tensor.name for tensor in layers[4].tensors) == [
        "conv4/bias",
        "conv4/kernel",
        "conv4_bn/beta",
        "conv4_bn/gamma",
        "conv4_bn/moving_mean",
        "conv4_bn/moving_variance",
    ]


def test_vgg16_layers_have_the_parameters_of_table_1(build):
    layers = read_layers(build("vgg16"))
    assert [layer.parameters for layer in layers] == [
        *(2_048, 37_184, 74_368, 148_096, 296_192, 591_104, 591_104, 1_182_208),
        *(2_361_856, 2_361_856, 2_361_856, 2_361_856, 2_361_856, 5_130),
    ]
    assert (len(layers), sum(layer.parameters for layer in layers)) == (14, 14_736_714)


def test_vgg16_operations(build):
    layers = read_layers(build("vgg16"))
    megas = [1.77, 37.7, 18.9, 37.7, 18.9, 37.7, 37.7, 18.9, 37.7, 37.7, 9.44, 9.44, 9.44, 0.00512]
    assert [layer.macs / 1e6 for layer in layers] == pytest.approx(megas, rel=0.003)
    assert layers[0].macs == 32 * 32 * (3 * 3 * 3) * 64
    assert round(sum(layer.macs for layer in layers) / 1e6, 1) == 313.2


def test_half_width_vgg16_operations(build):
    assert round(sum(layer.macs for layer in read_layers(build("vgg16", width=0.5))) / 1e6, 1) == 78.7


@pytest.mark.parametrize(
    ("name", "options", "macs"),
    [
        ("lstm_har", {}, [4 * 100 * (36 + 100), 100 * 72, 72 * 50, 50 * 36, 36 * 28, 28 * 10]),
        # 100 words leave 96 places for a kernel of 5, and pooling 24 steps of the LSTM.
        ("text_cnn", {}, [0, 96 * 5 * 128 * 64, 24 * 4 * 70 * (64 + 70), 70 * 2]),
    ],
)
def test_operations_of_recurrent_models(build, name, options, macs):
    assert [layer.macs for layer in read_layers(build(name, **options))] == macs


def test_a_weighted_layer_with_several_inputs_is_refused():
    import keras

    inputs = keras.Input((8, 4))
    attended = keras.layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling1D()(attended)))
    with pytest.raises(FednPartialError, match="layer 'attention' has 2 inputs; only layers with one are supported"):
        read_layers(model)


def test_batchnorm_without_a_layer_before_it_is_refused():
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(name="lonely"), keras.layers.Dense(2)])
    with pytest.raises(FednPartialError, match="'lonely' has no weighted layer before it"):
        read_layers(model)


def test_weights_that_are_not_float32_are_refused():
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="half", dtype="float16")])
    with pytest.raises(FednPartialError, match=r"half/.+ is float16; only float32"):
        read_layers(model)


def test_fingerprint_is_equal_for_a_model_built_again(build):
    from fedn_partial import models

    first = fingerprint(read_layers(build("vgg16", **TINY["vgg16"])))
    assert fingerprint(read_layers(models.build({"name": "vgg16", **TINY["vgg16"]}))) == first


def test_fingerprint_tells_models_apart(build):
    options = [{"width": 1 / 64}, {"width": 1 / 32}, {"width": 1 / 64, "classes": 3}]
    prints = [fingerprint(read_layers(build("vgg16", **chosen))) for chosen in options]
    assert len(set(prints)) == 3


def made(name, *tensors):
    return Layer(name, (name,), tensors, macs=6, inputs=1, outputs=1, pooled=0, normalised=False)


@pytest.mark.parametrize("change", [{"index": 1}, {"name": "a/gamma"}, {"shape": (3, 2)}, {"dtype": "float64"}])
def test_fingerprint_changes_with_every_property_of_a_tensor(change):
    tensor = Tensor(0, "a/kernel", (2, 3), "float32")
    other = dataclasses.replace(tensor, **change)
    assert fingerprint([made("a", tensor)]) != fingerprint([made("a", other)])


def test_pick_returns_layers_in_model_order():
    layers = [made(name) for name in ("a", "b", "c")]
    assert pick(layers, ["c", "a"]) == [layers[0], layers[2]]
    assert pick(layers, []) == []


def test_pick_refuses_unknown_names():
    layers = [made(name) for name in ("a", "b")]
    with pytest.raises(FednPartialError, match="no layer called 'x', 'y'; the model has a, b"):
        pick(layers, ["y", "a", "x"])
