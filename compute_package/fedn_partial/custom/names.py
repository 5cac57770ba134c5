"""Resolution of names of the form ``my_module:MyClass`` in a case.

The module must be in ``modules.active``; the attribute must be defined in the module, not imported by it, and be a
subclass of the key's base or a function with the key's return type.
"""

from __future__ import annotations

import inspect
import re
import types

from fedn_partial.custom import modules
from fedn_partial.custom.errors import UserCodeError, at
from fedn_partial.settings.schema import SettingsError, parse_named

FORM = r"[A-Za-z_]\w*:[A-Za-z_]\w*"


def is_custom(name) -> bool:
    """Return whether `name` has the form ``my_module:MyClass``, unlike a short name."""
    return isinstance(name, str) and ":" in name


def check(key: str, value: str, names) -> None:
    """Raise SettingsError unless `value` is one of `names` or of the form ``my_module:MyClass``."""
    if value not in names and not re.fullmatch(FORM, value):
        raise SettingsError(
            f"{key} must be one of {', '.join(names)}, found {value!r} (custom classes: my_module:MyClass)"
        )


def name_of(cls: type) -> str:
    """Return the name of a custom class, ``my_module:MyClass``."""
    return f"{cls.__module__}:{cls.__name__}"


def find_class(name: str, base: type, where: str) -> type:
    """Return the subclass of `base` that `name` refers to.

    Raises
    ------
    SettingsError : invalid name; the message has the key, the value and the allowed names.
    UserCodeError : its module cannot be imported.
    """

    def fits(value) -> bool:
        return inspect.isclass(value) and issubclass(value, base)

    return _find(name, fits, f"subclass of {base.__module__}.{base.__name__}", where)


def make(name: str, classes, base: type, where: str):
    """Return an instance of the class called `name` in `classes`, or of a custom subclass of `base`.

    Raises
    ------
    SettingsError, UserCodeError : as ``find_class``. UserCodeError : the constructor fails.
    """
    cls = classes[name] if name in classes else find_class(name, base, where)
    with modules.calling(cls):
        return cls()


def parse_section(section: dict, tag: str, classes: dict[str, type], base: type, where: str):
    """Build the dataclass that the key `tag` of `section` names, from the section's other keys.

    Parameters
    ----------
    classes : {short name: dataclass}. base : of custom dataclasses.

    Raises
    ------
    SettingsError, UserCodeError : as ``find_class`` and ``fedn_partial.settings.schema.parse_named``.
    """
    name = section.get(tag)
    if is_custom(name):
        classes = {name: find_class(name, base, f"{where}: {tag}")}
    return parse_named(section, tag, classes, where)


def find_function(name: str, returns: str, where: str) -> types.FunctionType:
    """Return the function that `name` refers to, whose return annotation is the class `returns` ("keras.Model").

    Raises as ``find_class``.
    """

    def fits(value) -> bool:
        if not inspect.isfunction(value):
            return False
        annotation = value.__annotations__.get("return")
        text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
        return text.rpartition(".")[2] == returns.rpartition(".")[2]

    return _find(name, fits, f"function with the annotation '-> {returns}'", where)


def source_digest(name: str) -> str:
    """Return a hash of the source of the module that `name` refers to."""
    module = name.partition(":")[0]
    modules.load(module, "name")
    return modules.active().digests()[module]


def _find(name: str, fits, kind: str, where: str):
    if not re.fullmatch(FORM, name):
        raise SettingsError(f"{where}: {name!r} is not of the form my_module:MyClass")
    module_name, _, attribute = name.partition(":")
    module = modules.load(module_name, where)
    own = {key: value for key, value in vars(module).items() if getattr(value, "__module__", None) == module_name}
    value = own.get(attribute)
    if fits(value):
        return value
    allowed = ", ".join(f"{module_name}:{key}" for key, other in own.items() if fits(other)) or "none"
    if value is not None and callable(value):
        raise UserCodeError(f"{at(value)}: {where}: {name!r} is not a {kind}. Allowed are: {allowed}")
    raise SettingsError(f"{where}: {module.__file__} has no {kind} called {attribute!r}. Allowed are: {allowed}")
