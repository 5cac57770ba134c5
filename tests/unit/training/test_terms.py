"""Step terms: their formulas against NumPy, and a round with them."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest

from fedn_partial.settings.case import Training
from fedn_partial.submodel.layers import pick, read_layers
from fedn_partial.training import local_training
from fedn_partial.training.step import StepSettings, trace
from fedn_partial.training.terms import from_dict
from fedn_partial.training.terms.base import StepTerm
from fedn_partial.training.terms.proximal import Proximal

MU = 2.0
# Float32 rounds values of about 1 by 6e-8 in each of 9 steps. Adam divides a gradient by its own size, so that its
# rounding moves a weight by more where it is near 0; the largest difference measured is 7e-7.
TOLERANCE = 5e-6
TRAINING = {
    "sgd": Training(epochs=3, batch_size=8, optimizer="sgd", learning_rate=0.1),
    "momentum": Training(epochs=3, batch_size=8, optimizer="sgd", learning_rate=0.1, momentum=0.9),
    "adam": Training(epochs=3, batch_size=8, learning_rate=0.05),
}


def softmax_model(seed=7):
    """One dense layer with softmax; its weights are as in `seed`."""
    import keras

    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="dense")(inputs))
    random = np.random.default_rng(seed)
    model.set_weights([random.normal(size=w.shape).astype(np.float32) for w in model.get_weights()])
    return model


def deep_model():
    """A convolution with BatchNormalization, and two dense layers."""
    import keras

    keras.utils.set_random_seed(7)
    layers = keras.layers
    inputs = keras.Input((4,))
    x = layers.Conv1D(3, 2, name="conv")(layers.Reshape((4, 1))(inputs))
    x = layers.Flatten()(layers.BatchNormalization(name="conv_bn")(x))
    x = layers.Dense(5, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="dense")(x))


@pytest.fixture
def examples():
    random = np.random.default_rng(5)
    return random.normal(size=(22, 4)).astype(np.float32), random.integers(0, 3, 22).astype(np.int32)


def trained(model, x, y, training, *terms, names=None, step=None):
    """Train `model` for one round; return its weights and the reported loss."""
    layers = read_layers(model)
    selected = layers if names is None else pick(layers, names)
    result = local_training.train(model, layers, selected, x, y, StepSettings(training, terms=terms), None, step=step)
    return model.get_weights(), result.loss


# The oracle: softmax regression in float64


def update(training):
    """Return a function of (w, gradient, memory) that returns the change of w; `memory` is a dict of its own."""

    def sgd(gradient, memory):
        memory["v"] = training.momentum * memory.get("v", 0.0) - training.learning_rate * gradient
        return memory["v"]

    def adam(gradient, memory):
        memory["t"] = t = memory.get("t", 0) + 1
        memory["m"] = 0.9 * memory.get("m", 0.0) + 0.1 * gradient
        memory["v"] = 0.999 * memory.get("v", 0.0) + 0.001 * gradient**2
        rate = training.learning_rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        return -rate * memory["m"] / (np.sqrt(memory["v"]) + 1e-7)

    return adam if training.optimizer == "adam" else sgd


def numpy_round(weights, x, y, training, mu, decoupled):
    """Return kernel and bias after a round of FedProx, and the mean loss of the last epoch."""
    anchor = [w.astype(np.float64) for w in weights]
    kernel, bias = (w.copy() for w in anchor)
    change, memories, x = update(training), ({}, {}), x.astype(np.float64)
    for _ in range(training.epochs):
        losses = []
        for start in range(0, len(y), training.batch_size):
            images, classes = x[start : start + training.batch_size], y[start : start + training.batch_size]
            powers = np.exp(images @ kernel + bias)
            outputs = powers / powers.sum(axis=1, keepdims=True)
            losses += [*-np.log(outputs[np.arange(len(classes)), classes])]
            errors = (outputs - np.eye(3)[classes]) / len(classes)
            gradients = [images.T @ errors, errors.sum(axis=0)]
            for w, w_t, gradient, memory in zip((kernel, bias), anchor, gradients, memories, strict=True):
                w += change(gradient if decoupled else gradient + mu * (w - w_t), memory)
                if decoupled:
                    w -= training.learning_rate * mu * (w - w_t)
    return (kernel, bias), np.mean(losses)


# The proximal term


def test_its_gradient_is_that_of_the_squared_distance():
    import tensorflow as tf

    random = np.random.default_rng(1)
    w, w_t, of_loss = ([random.normal(size=shape) for shape in ((3, 2), (4,))] for _ in range(3))
    variables, state = ([tf.Variable(array) for array in arrays] for arrays in (w, w_t))
    changed = Proximal(mu=0.3).gradients([tf.constant(g) for g in of_loss], variables, state)

    def objective():
        return 0.3 / 2 * sum(np.sum((a - b) ** 2) for a, b in zip(w, w_t, strict=True))

    step = 1e-3  # central differences of a quadratic are exact but for rounding, 1e-16 / step
    for array, gradient, ours in zip(w, of_loss, changed, strict=True):
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + step
            above = objective()
            array[index] = value - step
            below = objective()
            array[index] = value
            np.testing.assert_allclose(ours[index] - gradient[index], (above - below) / (2 * step), rtol=0, atol=1e-11)


@pytest.mark.parametrize("decoupled", [False, True], ids=["coupled", "decoupled"])
@pytest.mark.parametrize("optimizer", TRAINING)
def test_a_round_equals_fedprox_in_numpy(optimizer, decoupled, examples):
    training, model = TRAINING[optimizer], softmax_model()
    before = model.get_weights()
    expected, expected_loss = numpy_round(before, *examples, training, MU, decoupled)
    weights, loss = trained(model, *examples, training, Proximal(MU, decoupled))
    for ours, exact in zip(weights, expected, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=0, atol=TOLERANCE)
    assert loss == pytest.approx(expected_loss, abs=TOLERANCE)  # of the examples, without the term
    for mu, other in ((0.0, decoupled), (MU, not decoupled)):  # all differ by far more than the tolerance
        (kernel, _), _ = numpy_round(before, *examples, training, mu, other)
        assert np.abs(kernel - expected[0]).max() > 1000 * TOLERANCE


@pytest.mark.parametrize("decoupled", [False, True], ids=["coupled", "decoupled"])
@pytest.mark.parametrize("names", [["conv"], ["hidden"], ["conv", "dense"]], ids="+".join)
def test_frozen_layers_stay_bit_equal(names, decoupled, examples):
    model = deep_model()
    before = model.get_weights()
    after, _ = trained(model, *examples, TRAINING["adam"], Proximal(MU, decoupled), names=names)
    for layer in read_layers(model):
        for tensor in layer.tensors:
            same = before[tensor.index].tobytes() == after[tensor.index].tobytes()
            assert same == (layer.name not in names), tensor.name


@pytest.mark.parametrize("decoupled", [False, True], ids=["coupled", "decoupled"])
@pytest.mark.parametrize("optimizer", TRAINING)
def test_without_weight_it_changes_no_bit(optimizer, decoupled, examples):
    ours, loss = trained(deep_model(), *examples, TRAINING[optimizer], Proximal(0.0, decoupled))
    plain, plain_loss = trained(deep_model(), *examples, TRAINING[optimizer])
    assert [array.tobytes() for array in ours] == [array.tobytes() for array in plain]
    assert loss == plain_loss


def test_a_large_weight_keeps_the_global_model():
    """With learning_rate mu = 1 SGD goes back to the global model, plus one step of the loss."""
    random = np.random.default_rng(2)
    x, y = random.normal(size=(64, 4)).astype(np.float32), random.integers(0, 3, 64).astype(np.int32)
    training = Training(epochs=4, batch_size=8, optimizer="sgd", learning_rate=0.01)
    model = softmax_model()
    before = model.get_weights()
    near, _ = trained(model, x, y, training, Proximal(100.0))
    far, _ = trained(softmax_model(), x, y, training)
    distances = [np.abs(weights[0] - before[0]).max() for weights in (near, far)]
    assert 0 < distances[0] < 0.2 * distances[1]


@pytest.mark.parametrize("decoupled", [False, True], ids=["coupled", "decoupled"])
@pytest.mark.parametrize("optimizer", TRAINING)
def test_a_step_used_again_refers_to_the_new_global_model(optimizer, decoupled, examples):
    training, term = TRAINING[optimizer], Proximal(MU, decoupled)
    model = softmax_model()
    layers = read_layers(model)
    step = trace(model, layers, layers, examples[0], StepSettings(training, terms=(term,)))
    for seed in (7, 8, 9):
        global_model = softmax_model(seed)
        model.set_weights(global_model.get_weights())
        ours = trained(model, *examples, training, term, step=step)
        fresh = trained(global_model, *examples, training, term)
        assert [array.tobytes() for array in ours[0]] == [array.tobytes() for array in fresh[0]]
        assert ours[1] == fresh[1]


# Terms in general


class StepCounter(StepTerm):
    """Counts the steps of a round in its state, and sets the first weights to the count."""

    def init(self, values, reference):
        return [reference[0] * 0]

    def gradients(self, gradients, values, state):
        state[0].assign_add(state[0] * 0 + 1)
        return gradients

    def constrain(self, values, state, learning_rate):
        values[0].assign(state[0])


class Halves(StepTerm):
    """Halves the gradients."""

    def gradients(self, gradients, values, state):
        return [gradient / 2 for gradient in gradients]


def test_a_term_has_a_state_of_its_own_which_every_round_begins_anew(examples):
    """9 steps a round: the state counts them, and constrain has the last word on the weights."""
    model = softmax_model()
    layers, settings = read_layers(model), StepSettings(TRAINING["adam"], terms=(StepCounter(), StepCounter()))
    step = trace(model, layers, layers, examples[0], settings)
    for _ in range(2):
        weights, _ = trained(model, *examples, settings.training, step=step)
        assert (weights[0] == 9).all()


def test_terms_are_applied_in_order(examples):
    """One step of SGD from the global model: the proximal term is 0, then both halve. The oracle is half the rate."""
    training = Training(batch_size=22, optimizer="sgd", learning_rate=0.1)
    slower = Training(batch_size=22, optimizer="sgd", learning_rate=0.025)
    ours, _ = trained(softmax_model(), *examples, training, Halves(), Proximal(MU), Halves())
    expected, _ = trained(softmax_model(), *examples, slower)
    np.testing.assert_allclose(ours[0], expected[0], rtol=1e-6)
    two = Training(epochs=2, batch_size=22, optimizer="sgd", learning_rate=0.1)
    (first, _), (last, _) = (
        trained(softmax_model(), *examples, two, *terms)
        for terms in ((Halves(), Proximal(MU)), (Proximal(MU), Halves()))
    )
    assert np.abs(first[0] - last[0]).max() > 1e-3


def test_a_base_term_changes_no_bit(examples):
    ours, _ = trained(deep_model(), *examples, TRAINING["adam"], StepTerm())
    plain, _ = trained(deep_model(), *examples, TRAINING["adam"])
    assert [array.tobytes() for array in ours] == [array.tobytes() for array in plain]


def test_a_section_names_a_term():
    assert from_dict(None) == ()
    assert from_dict({"name": "proximal", "mu": 1}) == (Proximal(1.0),)
    assert from_dict({"name": "proximal", "mu": 0.1, "decoupled": True}) == (Proximal(0.1, decoupled=True),)
