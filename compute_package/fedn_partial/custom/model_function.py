"""Custom models as functions, such as ``def small_cnn(*, filters: int = 8) -> keras.Model``.

The parameters are the model's options, annotated with int, float, str, bool, ``tuple[str, ...]`` or one of these
``| None``; those without a default are required in the case.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing

from fedn_partial.custom import modules
from fedn_partial.custom.errors import UserCodeError, at

SUPPORTED = (int, float, str, bool, tuple[str, ...])


def options_class(function: types.FunctionType) -> type:
    """Return a dataclass of the parameters of `function` (raises UserCodeError)."""
    fields = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise UserCodeError(
                f"{at(function)}: parameter {str(parameter)!r} cannot be an option; use named parameters"
            )
        hint = _type(function, parameter)
        if parameter.default is parameter.empty:
            fields.append((parameter.name, hint))
        else:
            fields.append((parameter.name, hint, dataclasses.field(default=parameter.default)))
    return dataclasses.make_dataclass(function.__name__, fields, frozen=True, kw_only=True)


def build(function: types.FunctionType, options):
    """Return the Keras model that `function` builds from `options`, an instance of its ``options_class``.

    Raises
    ------
    UserCodeError : the function raises, or returns an unsupported value.
    """
    import keras

    with modules.calling(function):
        model = function(**{field.name: getattr(options, field.name) for field in dataclasses.fields(options)})
    if not isinstance(model, keras.Model):
        raise UserCodeError(f"{at(function)}: {function.__name__} returned {model!r}, expected a keras.Model")
    if not model.built or not hasattr(model.layers[-1] if model.layers else None, "output"):
        raise UserCodeError(
            f"{at(function)}: the model that {function.__name__} returned has no known input shape; start it with "
            "keras.Input(shape)"
        )
    for kind, tensors in (("inputs", model.inputs), ("outputs", model.outputs)):
        if len(tensors) != 1:
            raise UserCodeError(
                f"{at(function)}: the model that {function.__name__} returned has {len(tensors)} {kind}, expected one"
            )
    # A Sequential model lacks `input` and `output` before its first call; others may have lists with one tensor.
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


def _type(function: types.FunctionType, parameter: inspect.Parameter):
    """Return the type of a parameter: its annotation, or the type of its default."""
    hint = parameter.annotation
    if hint is parameter.empty:
        hint = type(parameter.default)  # not a supported type if there is no default either
    elif isinstance(hint, str):  # of a module with "from __future__ import annotations"
        with modules.calling(function):
            stub = types.SimpleNamespace(__annotations__={parameter.name: hint})
            try:
                hint = typing.get_type_hints(stub, function.__globals__)[parameter.name]
            except NameError as error:
                raise UserCodeError(f"{at(function)}: parameter {parameter.name!r}: {error}") from None
    choices = [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        choices = [choice for choice in typing.get_args(hint) if choice is not types.NoneType]
    if len(choices) != 1 or choices[0] not in SUPPORTED:
        raise UserCodeError(
            f"{at(function)}: parameter {parameter.name!r} of {function.__name__} needs an annotation: int, float, "
            "str, bool, tuple[str, ...], or one of them | None"
        )
    return choices[0] if hint is choices[0] else choices[0] | None
