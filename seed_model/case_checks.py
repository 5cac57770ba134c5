"""Checks of a case before anything is started, downloaded or written."""

from __future__ import annotations

from fedn_partial import models
from fedn_partial.errors import FednPartialError
from fedn_partial.layers import Layer, layer_table
from fedn_partial.schema import SettingsError
from fedn_partial.selection import Context, ask, from_dict
from fedn_partial.settings import Case


def check_case(case: Case) -> list[Layer]:
    """Return the layers of the case's model.

    Raises
    ------
    FednPartialError : the model cannot be built, or its selector names layers, or more layers, than the model has.
    """
    layers = layer_table(models.build(case.model, empty=True))
    selector = from_dict(case.selection)
    number = getattr(selector, "layers", None)
    if number is not None and number > len(layers):
        raise SettingsError(f"selection: layers is {number}, but the model has {len(layers)} layers")
    ask(selector, layers, Context(seed=case.seed, round=1, client=""))
    return layers


def check_fleet(case: Case) -> None:
    """Raise FednPartialError if a session on this machine could not start for want of data or of clients."""
    if case.data is None:
        raise FednPartialError("section 'data' is missing: which data set is dealt to the clients on this machine")
    check_clients(case, case.data.clients, "data: clients")


def check_clients(case: Case, clients: int, where: str) -> None:
    """Raise FednPartialError if the session requires more clients than the `clients` that `where` names."""
    if case.session.min_clients > clients:
        raise FednPartialError(f"session: min_clients is {case.session.min_clients}, but {where} is {clients}")
