"""The limits, held against figures worked out elsewhere: VGG16 of the paper at 32x32, batch 32, Adam."""

from itertools import combinations

import numpy as np
import pytest

from fedn_partial.device import costs
from fedn_partial.settings.case import Training
from fedn_partial.submodel.layers import read_layers
from fedn_partial.training.terms.proximal import Proximal

MIB = 2**20


@pytest.fixture
def layers(build):
    return read_layers(build("vgg16"))


def all_costs(layers, selected):
    state = costs.state_bytes(layers, selected, Training())
    ideal, framework = (
        f(layers, selected, 32) for f in (costs.ideal_activation_bytes, costs.framework_activation_bytes)
    )
    return np.array(
        [
            costs.upload_bytes(selected),
            costs.training_macs(layers, selected),
            state,
            state + ideal,
            ideal,
            state + framework,
        ]
    )


def test_full_training(layers):
    upload, macs, state, ideal, activations, framework = all_costs(layers, layers)
    assert upload / MIB == pytest.approx(56.2, abs=0.05)
    assert macs / 1e6 == pytest.approx(937.8, abs=0.1)
    assert state / MIB == pytest.approx(56.2 + 56.2 + 112.4, abs=0.1)
    assert activations / MIB == pytest.approx(57.7, abs=0.05)
    assert ideal / MIB == pytest.approx(282.5, abs=0.1)
    assert framework / MIB == pytest.approx(296.5, abs=0.1)


@pytest.mark.parametrize(
    ("number", "upload", "deviation", "macs", "lowest", "highest", "state", "ideal", "activations", "framework"),
    [
        (4, 0.231, 0.109, 0.662, 0.384, 0.748, 0.423, 0.386, 0.239, 0.469),
        (7, 0.462, 0.129, 0.786, 0.575, 0.869, 0.596, 0.571, 0.470, 0.652),
        (10, 0.692, 0.119, 0.883, 0.777, 0.950, 0.769, 0.755, 0.698, 0.810),
    ],
)
def test_mean_over_all_selections_of_the_paper(
    layers, number, upload, deviation, macs, lowest, highest, state, ideal, activations, framework
):
    """The dense layer and number - 1 of the 13 convolutions: every one of these selections, as shares of the full."""
    full = all_costs(layers, layers)
    shares = np.array([all_costs(layers, [*some, layers[-1]]) / full for some in combinations(layers[:-1], number - 1)])
    expected = [upload, macs, state, ideal, activations, framework]
    np.testing.assert_allclose(shares.mean(axis=0), expected, atol=0.0011)
    assert shares[:, 0].std() == pytest.approx(deviation, abs=0.001)
    assert (shares[:, 1].min(), shares[:, 1].max()) == pytest.approx((lowest, highest), abs=0.001)


@pytest.mark.parametrize(
    ("first", "last", "upload", "macs", "ideal", "framework"),
    [
        (10, 14, 0.481, 0.384, 0.492, 0.469),
        (7, 14, 0.882, 0.576, 0.751, 0.719),
        (4, 14, 0.982, 0.777, 0.850, 0.820),
        (0, 4, 0.018, 0.769, 0.350, 0.442),
    ],
)
def test_contiguous_selections(layers, first, last, upload, macs, ideal, framework):
    shares = all_costs(layers, layers[first:last]) / all_costs(layers, layers)
    np.testing.assert_allclose(shares[[0, 1, 3, 5]], [upload, macs, ideal, framework], atol=0.0011)


@pytest.mark.parametrize(
    ("training", "slots"),
    [(Training(), 2), (Training(optimizer="sgd"), 0), (Training(optimizer="sgd", momentum=0.9), 1)],
)
def test_optimiser_slots(layers, training, slots):
    selected = layers[:3]
    trained, all_ = sum(layer.nbytes for layer in selected), sum(layer.nbytes for layer in layers)
    assert costs.state_bytes(layers, selected, training) == all_ + (1 + slots) * trained


def test_a_proximal_term_keeps_a_copy_of_the_trained_weights(layers):
    plain, proximal = (costs.state_bytes(layers, layers[:3], Training(), terms) for terms in ((), (Proximal(0.1),)))
    assert proximal - plain == sum(layer.nbytes for layer in layers[:3])


def test_frozen_batchnormalization_keeps_no_input(layers):
    """Of conv10 to conv12 and dense (2,048 values each, 512 pooled), with only conv10's own kept twice."""
    assert costs.activation_bytes(layers, [layers[10]], 1) == 4 * (4 * 2048 + 512 + 10 + 2048)


def test_an_lstm_keeps_its_steps(build):
    layers = read_layers(build("text_cnn"))
    lstm = layers[2]
    assert lstm.outputs == 24 * 70 * 6  # 100 words, convolved by 5, pooled by 4
    assert (layers[1].outputs, layers[1].pooled) == (96 * 64, 24 * 64)
