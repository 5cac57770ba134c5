"""Custom step terms: found by name, traced into the step, and their errors with file and line."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest
from paths import ROOT

from fedn_partial.custom import modules
from fedn_partial.custom.errors import UserCodeError
from fedn_partial.settings.case import Training
from fedn_partial.settings.schema import SettingsError
from fedn_partial.submodel.layers import read_layers
from fedn_partial.training import local_training, terms
from fedn_partial.training.step import StepSettings, trace

TERMS = """
    from dataclasses import dataclass

    from fedn_partial.training.terms.base import StepTerm


    @dataclass(frozen=True)
    class Fails(StepTerm):
        method: str

        def init(self, values, reference):
            return [reference[5]] if self.method == "init" else []

        def gradients(self, gradients, values, state):
            return gradients[5] if self.method == "gradients" else gradients

        def constrain(self, values, state, learning_rate):
            return values[5] if self.method == "constrain" else None


    class Short(StepTerm):
        def gradients(self, gradients, values, state):
            return gradients[1:]


    class OldConstrain(StepTerm):
        def constrain(self, values):
            pass


    class NoTerm:
        pass
"""
SGD = Training(epochs=1, batch_size=8, optimizer="sgd", learning_rate=1.0)


@pytest.fixture
def model():
    import keras

    keras.utils.set_random_seed(7)
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="dense")(inputs))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "my_terms:Fails", "method": "init"}, "my_terms.py, line 11: IndexError: list index out of range"),
        ({"name": "my_terms:Fails", "method": "gradients"}, "my_terms.py, line 14: IndexError: list index out of ra"),
        ({"name": "my_terms:Fails", "method": "constrain"}, "my_terms.py, line 17: IndexError: list index out of ra"),
        ({"name": "my_terms:Short"}, "my_terms.py, line 21: returned 1 gradients, expected 2"),
        ({"name": "my_terms:OldConstrain"}, "my_terms.py, line 26: TypeError: "),
    ],
)
def test_an_error_while_the_step_is_traced_has_its_file_and_line(section, message, custom, model):
    folder = custom(my_terms=TERMS)
    layers = read_layers(model)
    settings = StepSettings(SGD, terms=terms.from_dict(section))
    with pytest.raises(UserCodeError) as raised:
        trace(model, layers, layers, np.zeros((8, 4), np.float32), settings)
    assert str(raised.value).startswith(f"{folder}/{message}")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "my_terms:Fails"}, "objective: key 'method' is missing"),
        ({"name": "my_terms:Short", "mu": 1}, "objective: unknown key 'mu'"),
        ({"name": "my_terms:NoTerm"}, "my_terms:Fails, my_terms:Short, my_terms:OldConstrain"),
        ({"name": "my_terms:StepTerm"}, "has no subclass of fedn_partial.training.terms.base.StepTerm called"),
        ({"name": "os:system"}, "objective: name: module 'os' is not allowed"),
    ],
)
def test_a_name_that_is_no_term_is_refused(section, message, custom):
    custom(my_terms=TERMS)
    with pytest.raises((SettingsError, UserCodeError)) as raised:
        terms.from_dict(section)
    assert message in str(raised.value)


def test_the_example_clips_the_gradient_of_a_batch(model):
    """One step of SGD at learning rate 1 has the length of the gradient; without the term it is longer."""
    random = np.random.default_rng(5)
    x, y = random.normal(size=(8, 4)).astype(np.float32), random.integers(0, 3, 8).astype(np.int32)
    before, layers = model.get_weights(), read_layers(model)
    try:
        modules.use(ROOT / "docs" / "examples")
        clip = terms.from_dict({"name": "my_terms:ClipNorm", "norm": 0.125})
        lengths = []
        for chosen in (clip, ()):
            model.set_weights(before)
            local_training.train(model, layers, layers, x, y, StepSettings(SGD, terms=chosen), None)
            changes = [new - old for new, old in zip(model.get_weights(), before, strict=True)]
            lengths.append(np.sqrt(sum(np.sum(change**2) for change in changes)))
    finally:
        modules.use(None)
    assert lengths[0] == pytest.approx(0.125, rel=1e-5) and lengths[1] > 0.2
