"""Step terms: what the case's section `objective:` adds to the training step of every client.

To add one, write a subclass of ``StepTerm`` and register it in ``TERMS``, or write it in a custom module.
"""

from __future__ import annotations

from fedn_partial.custom import names
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
    return (names.parse_section(raw, "name", TERMS, StepTerm, where),)
