"""Trial runs of custom models, codecs and merge rules before a session, as FEDn only logs their errors."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from fedn_partial import models
from fedn_partial.custom import modules, names
from fedn_partial.custom.errors import UserCodeError, at
from fedn_partial.errors import FednPartialError
from fedn_partial.exchange.codecs import Codec
from fedn_partial.exchange.encoding import decode_as_server, encode_kernel
from fedn_partial.exchange.merge_rules.base import BaseRule, Round, Update
from fedn_partial.exchange.merge_rules.weighted_mean import WeightedMean
from fedn_partial.seed_model.package import rebuild
from fedn_partial.settings.case import Case

EXAMPLES = 64  # that a model is tried on
SHAPE = (3, 3, 2, 4)  # of the example kernel


def try_model(case: Case) -> None:
    """Check that a custom model returns probabilities, for which its loss is made (raises UserCodeError)."""
    if not names.is_custom(case.model.get("name")):
        return
    function = names.find_function(case.model["name"], "keras.Model", "model: name")
    model = models.build(case.model)
    shape, dtype = tuple(1 if extent is None else extent for extent in model.input.shape[1:]), model.input.dtype
    draw = np.random.default_rng(0).normal(size=(EXAMPLES, *shape))
    with modules.calling(function):
        outputs = np.asarray(model((draw if "float" in dtype else draw * 0).astype(dtype), training=False))
    if outputs.ndim != 2:
        raise UserCodeError(f"{at(function)}: the output has shape {model.output.shape}, expected (None, classes)")
    sums = outputs.sum(axis=1)
    is_probability = ((outputs >= 0) & (outputs <= 1)).all() and (outputs.shape[1] == 1 or abs(sums - 1).max() < 1e-3)
    if not is_probability:
        raise UserCodeError(
            f"{at(function)}: the outputs are not probabilities, which the loss (cross-entropy) requires; end the "
            "model with activation='softmax', or 'sigmoid' for a single output"
        )


def try_codec(case: Case) -> None:
    """Encode and decode an example kernel with the case's codec, if it is custom (raises UserCodeError)."""
    if not names.is_custom(case.codec):
        return
    codec = names.make(case.codec, {}, Codec, "codec")
    change = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    decode_as_server(codec, encode_kernel(codec, change), SHAPE)


def try_merge_rule(case: Case, settings: dict) -> None:
    """Call each method of the case's merge rule, if it is custom (raises UserCodeError).

    `settings` : of the session, see ``server_functions.session_settings``.
    """
    if not names.is_custom(case.merge):
        return
    cls = names.find_class(case.merge, BaseRule, "merge")
    with modules.calling(cls):
        rule = cls(settings)
    with modules.calling(cls.client_weights):
        weights = rule.client_weights(["layer"], 20, {"probabilities": {"layer": 0.5}}, {"layer": 100})
    if not isinstance(weights, dict) or not all(_is_number(weights.get(name)) for name in ["layer"]):
        raise UserCodeError(f"{at(cls)}: client_weights returned {weights!r}, expected {{layer: number above 0}}")
    if issubclass(cls, WeightedMean):
        with modules.calling(cls.step_size):
            step = rule.step_size(weights["layer"], 1, 60)
        if step != 0 and not _is_number(step):
            raise UserCodeError(f"{at(cls)}: step_size returned {step!r}, expected a number of at least 0")
    layout = {"indices": {"layer": [0]}, "variances": {}, "parameters": {"layer": 100}}
    with modules.calling(cls.merge):
        rule.begin(Round([np.zeros(100, np.float32)], {**settings, **layout}, {}))
        rule.add(Update(20, {"layer": [np.ones(100, np.float32)]}, weights))
        merged = rule.merge("layer")
        rule.end()
    if [np.shape(array) for array in merged] != [(100,)]:
        raise UserCodeError(f"{at(cls)}: merge returned arrays of other shapes than the layer's")


def check_shipped(case: Case, package: Path) -> None:
    """Raise FednPartialError unless the compute package in `package` contains the case's custom modules.

    These are the modules that its model, selector, objective and codec name, and all custom modules that they import.
    """
    used = [case.model.get("name"), case.selection.get("selector"), (case.objective or {}).get("name"), case.codec]
    named = {name.partition(":")[0] for name in used if names.is_custom(name)}
    custom = modules.active()
    for module in custom.imported_by(named) if named else []:
        source, shipped = custom.path(module), package / modules.FOLDER / f"{module}.py"
        if not shipped.exists() or shipped.read_bytes() != source.read_bytes():
            state = f"has a {module}.py that differs from {source}" if shipped.exists() else f"has no {module}.py"
            raise FednPartialError(f"FEDn's active compute package {state}; {rebuild()}")


def _is_number(value) -> bool:
    return isinstance(value, (int, float, np.number)) and 0 < value < math.inf
