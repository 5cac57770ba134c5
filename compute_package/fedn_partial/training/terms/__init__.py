"""Step terms: what the case's section `objective:` adds to the training step of every client.

To add one, write a subclass of ``StepTerm`` and register it in ``TERMS``, or write it in a custom module.
"""

from __future__ import annotations

from fedn_partial.custom import names
from fedn_partial.settings.schema import parse, parse_named
from fedn_partial.training.terms.base import StepTerm
from fedn_partial.training.terms.proximal import Proximal

TERMS = {"proximal": Proximal}


def from_dict(raw: dict | None, where: str = "objective") -> tuple[StepTerm, ...]:
    """Return the terms described by an `objective:` section: ``name``, and the term's fields; none for None.

    Raises
    ------
    SettingsError : unknown term or field, wrong type, invalid value.
    UserCodeError : a custom term that cannot be imported.
    """
    if raw is None:
        return ()
    name = raw.get("name")
    if names.is_custom(name):
        fields = {key: value for key, value in raw.items() if key != "name"}
        return (parse(names.find_class(name, StepTerm, f"{where}: name"), fields, where),)
    return (parse_named(raw, "name", TERMS, where),)
