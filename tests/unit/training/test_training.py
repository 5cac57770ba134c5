"""Training of a selection: equal to Keras' own, and no more work than the selection needs."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest

from fedn_partial.settings.case import Training
from fedn_partial.submodel.layers import pick, read_layers
from fedn_partial.training import evaluation, local_training, optimizers
from fedn_partial.training.step import StepSettings, trace


def small_model(outputs=3):
    """Two convolutions with BatchNormalization and a dense layer; all weights away from their initial values."""
    import keras

    keras.utils.set_random_seed(7)
    layers = keras.layers
    x = inputs = keras.Input((8, 8, 3))
    for name in ("conv0", "conv1"):
        # No bias: BatchNormalization takes it out again, so its gradient is rounding noise, which Adam makes large.
        x = layers.Conv2D(4, 3, padding="same", use_bias=False, name=name)(x)
        x = layers.BatchNormalization(momentum=0.8, name=f"{name}_bn")(x)
        x = layers.Activation("relu")(x)
    x = layers.Flatten()(x)
    head = {"activation": "softmax"} if outputs > 1 else {"activation": "sigmoid"}
    model = keras.Model(inputs, layers.Dense(outputs, name="dense", **head)(x))
    random = np.random.default_rng(3)
    model.set_weights([w + random.uniform(0.0, 0.2, w.shape).astype(np.float32) for w in model.get_weights()])
    return model


@pytest.fixture
def examples():
    random = np.random.default_rng(5)
    return random.random((22, 8, 8, 3), dtype=np.float32), random.integers(0, 3, 22).astype(np.int32)


OPTIMIZERS = {
    "adam": Training(epochs=2, batch_size=8, learning_rate=0.01),
    "sgd": Training(epochs=2, batch_size=8, optimizer="sgd", learning_rate=0.05, momentum=0.9),
}


@pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("names", [["conv1"], ["conv0", "dense"], ["conv0", "conv1", "dense"]], ids="+".join)
def test_result_equals_a_compiled_fit_with_the_same_layers_frozen(names, settings, examples):
    import keras

    x, y = examples
    reference = small_model()
    for layer in read_layers(reference):
        for keras_layer in layer.keras_layers:
            reference.get_layer(keras_layer).trainable = layer.name in names
    optimizer = (
        keras.optimizers.Adam(settings.learning_rate)
        if settings.optimizer == "adam"
        else keras.optimizers.SGD(settings.learning_rate, momentum=settings.momentum)
    )
    reference.compile(optimizer, "sparse_categorical_crossentropy")
    reference.fit(x, y, batch_size=settings.batch_size, epochs=settings.epochs, shuffle=False, verbose=0)

    model = small_model()
    layers = read_layers(model)
    local_training.train(model, layers, pick(layers, names), x, y, StepSettings(settings), order=None)

    for ours, keras_own, weight in zip(model.get_weights(), reference.get_weights(), model.weights, strict=True):
        np.testing.assert_allclose(ours, keras_own, rtol=1e-4, atol=2e-5, err_msg=weight.path)


def test_frozen_layers_stay_bit_equal_and_selected_ones_change(examples):
    model = small_model()
    layers = read_layers(model)
    before = model.get_weights()
    local_training.train(model, layers, pick(layers, ["conv1"]), *examples, StepSettings(Training()), order=None)
    after = model.get_weights()
    for layer in layers:
        for tensor in layer.tensors:
            same = np.array_equal(before[tensor.index], after[tensor.index])
            assert same == (layer.name != "conv1"), tensor.name


def test_a_short_last_batch_causes_no_second_trace(examples):
    x, y = examples
    model = small_model()
    layers = read_layers(model)
    step = trace(model, layers, layers, x, StepSettings(Training())).run
    for size in (8, 8, 6, 1):
        step(x[:size], y[:size])
    assert step.experimental_get_tracing_count() == 1


def executed(graph):
    """The operations that a call runs: those that its outputs and side effects depend on."""
    found, waiting = set(), [tensor.op for tensor in graph.outputs] + list(graph.control_outputs)
    while waiting:
        operation = waiting.pop()
        if operation not in found:
            found.add(operation)
            waiting += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
    return found


@pytest.mark.parametrize(
    ("names", "kernel_gradients", "input_gradients"),
    [(["dense"], 0, 0), (["conv1"], 1, 0), (["conv0"], 1, 1), (["conv0", "conv1", "dense"], 2, 1)],
    ids=["dense", "conv1", "conv0", "all"],
)
def test_back_propagation_stops_at_the_lowest_selected_layer(names, kernel_gradients, input_gradients, examples):
    model = small_model()
    layers = read_layers(model)
    step = trace(model, layers, pick(layers, names), examples[0], StepSettings(Training())).run
    operations = [operation.type for operation in executed(step.get_concrete_function().graph)]
    assert operations.count("Conv2DBackpropFilter") == kernel_gradients
    assert operations.count("Conv2DBackpropInput") == input_gradients


def test_uint8_images_are_scaled_to_one(examples):
    x, y = examples
    pixels = np.rint(x * 255).astype(np.uint8)
    from_pixels, from_floats = small_model(), small_model()
    for model, images in ((from_pixels, pixels), (from_floats, pixels.astype(np.float32) / 255)):
        layers = read_layers(model)
        local_training.train(model, layers, layers, images, y, StepSettings(OPTIMIZERS["sgd"]), order=None)
    for a, b in zip(from_pixels.get_weights(), from_floats.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_every_epoch_sees_every_example_in_an_order_of_its_own(examples):
    seen = []

    class Recorder:
        def __init__(self, values):
            self.values, self.shape, self.dtype = values, values.shape, values.dtype

        def __getitem__(self, indices):
            seen.append(list(indices))
            return self.values[indices]

    x, y = examples
    model = small_model()
    layers = read_layers(model)
    settings = StepSettings(Training(epochs=2, batch_size=8))
    local_training.train(model, layers, layers, Recorder(x), y, settings, np.random.default_rng(1))
    first, second = np.concatenate(seen[:3]), np.concatenate(seen[3:])
    assert sorted(first) == sorted(second) == list(range(22))
    assert list(first) != list(second)


def test_a_loss_that_is_not_finite_is_refused(examples):
    x, y = examples
    x = x.copy()
    x[3, 0, 0, 0] = np.nan
    model = small_model()
    layers = read_layers(model)
    with pytest.raises(local_training.TrainingError, match=r"training diverged \(loss nan\).*learning_rate=0\.001"):
        local_training.train(model, layers, layers, x, y, StepSettings(Training()), order=None)


def test_nothing_selected_is_refused(examples):
    model = small_model()
    with pytest.raises(local_training.TrainingError, match="no layer selected"):
        local_training.train(model, read_layers(model), [], *examples, StepSettings(Training()), order=None)


@pytest.mark.parametrize("outputs", [3, 1], ids=["softmax", "sigmoid"])
def test_evaluation_equals_numpy(outputs, examples):
    x, y = examples
    y = y % 2 if outputs == 1 else y
    model = small_model(outputs)
    head = model.get_layer("dense")
    head.set_weights([0.02 * weight for weight in head.get_weights()])  # away from 0 and 1, where logarithms end
    predictions = model.predict(x, verbose=0)
    if outputs == 1:
        of_truth = np.where(y == 1, predictions[:, 0], 1 - predictions[:, 0])
        hits = (predictions[:, 0] > 0.5) == y
    else:
        of_truth = predictions[np.arange(len(y)), y]
        hits = predictions.argmax(axis=1) == y
    accuracy, loss = evaluation.evaluate(model, x, y, batch_size=5)
    assert accuracy == pytest.approx(hits.mean())
    assert loss == pytest.approx(-np.log(of_truth).mean(), rel=1e-3)


@pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_step_used_again_trains_as_a_new_one(settings, examples):
    (x, y), settings = examples, StepSettings(settings)
    model = small_model()
    layers, before = read_layers(model), model.get_weights()
    selected = pick(layers, ["conv1", "dense"])
    step = trace(model, layers, selected, x, settings)
    results = []
    for _ in range(2):
        model.set_weights(before)
        loss = local_training.train(model, layers, selected, x, y, settings, None, step=step).loss
        results.append([loss, *model.get_weights()])
    model.set_weights(before)
    fresh = local_training.train(model, layers, selected, x, y, settings, None).loss
    for first, again, new in zip(*results, [fresh, *model.get_weights()], strict=True):
        assert np.array_equal(first, again)
        assert np.array_equal(first, new)


def test_frozen_batchnormalization_can_follow_the_batch(examples):
    """The oracle: one step of a learning rate too small to move anything, and Keras' formula for moving statistics."""
    x, y = examples
    model = small_model()
    layers, before = read_layers(model), model.get_weights()
    inputs = model.get_layer("conv0")(x).numpy()
    training = Training(epochs=1, batch_size=22, optimizer="sgd", learning_rate=1e-12)
    settings = StepSettings(training, update_batchnorm=True)
    local_training.train(model, layers, pick(layers, ["dense"]), x, y, settings, None)
    bn = model.get_layer("conv0_bn")
    old = dict(zip([w.path for w in model.weights], before, strict=True))
    mean, variance = inputs.mean((0, 1, 2)), inputs.var((0, 1, 2))
    np.testing.assert_allclose(bn.moving_mean, 0.8 * old[bn.moving_mean.path] + 0.2 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        bn.moving_variance, 0.8 * old[bn.moving_variance.path] + 0.2 * variance, rtol=1e-4, atol=1e-6
    )
    for weight in (bn.gamma, bn.beta, *model.get_layer("conv1").weights):
        assert np.array_equal(weight, old[weight.path])


def test_adam_moves_an_embedding_row_met_twice_in_a_batch_by_the_sum_of_its_gradients():
    """As Keras 2. Keras 3.15 squares the two gradients one by one: a smaller second moment, so a longer step."""
    import keras
    import tensorflow as tf

    words, weights, rate = [1, 1, 2], [0.3, 3.0, 0.5], 0.1

    def steps_of_keras():
        embedding = keras.layers.Embedding(4, 1, embeddings_initializer="zeros")
        embedding.build()
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(embedding(tf.constant(words))[:, 0] * tf.constant(weights))
        gradient = tape.gradient(loss, embedding.embeddings.value)
        keras.optimizers.Adam(rate).apply([gradient], [embedding.embeddings])
        return embedding.embeddings.numpy().ravel()

    ours = tf.Variable(np.zeros((4, 1), np.float32))
    apply, _ = optimizers.adam([ours], Training(learning_rate=rate))
    apply([tf.constant(np.bincount(words, weights, minlength=4)[:, None], tf.float32)])
    # Adam's first step is the learning rate, however large the gradient.
    np.testing.assert_allclose(ours.numpy().ravel(), [0, -rate, -rate, 0], rtol=1e-4)
    np.testing.assert_allclose(steps_of_keras()[1], -rate * 3.3 / np.hypot(0.3, 3.0), rtol=1e-4)
