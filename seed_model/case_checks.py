"""Checks of a case, without side effects."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable

from fedn_partial import models
from fedn_partial.custom import modules
from fedn_partial.data.shard import Shard, check_fits
from fedn_partial.errors import DataError, FednPartialError
from fedn_partial.seed_model import custom_checks, server_functions
from fedn_partial.settings.case import Case
from fedn_partial.settings.schema import SettingsError
from fedn_partial.submodel.layers import Layer, read_layers
from fedn_partial.submodel.selection import Context, from_dict, requested_layers


def check_case(case: Case) -> list[Layer]:
    """Check a case and return the layers of its model.

    Raises
    ------
    FednPartialError : the model cannot be built, the selector does not fit it, or a custom codec or merge rule fails.
    """
    layers = _layers(json.dumps(case.model, sort_keys=True), modules.active())
    selector = from_dict(case.selection)
    number = getattr(selector, "layers", None)
    if number is not None and number > len(layers):
        raise SettingsError(f"selection: layers is {number}, but the model has {len(layers)} layers")
    requested_layers(selector, layers, Context(seed=case.seed, round=1, client=""))
    settings = server_functions.session_settings(case, layers, "check", "")
    custom_checks.try_model(case)
    custom_checks.try_codec(case)
    custom_checks.try_merge_rule(case, settings)
    server_functions.source(settings)
    return list(layers)


@functools.cache
def _layers(model: str, custom: modules.CustomModules | None) -> list[Layer]:
    return read_layers(models.build(json.loads(model), empty=True))


def check_fleet(case: Case) -> None:
    """Raise FednPartialError if the case lacks data for a session on this machine."""
    if case.data is None:
        raise FednPartialError("section 'data' is missing; add it with the data set of the clients on this machine")
    check_clients(case, case.data.clients, "data: clients")


def check_clients(case: Case, clients: int, where: str) -> None:
    """Raise FednPartialError if the session requires more than `clients`, the value of the key `where`."""
    for key in ("min_clients", "clients_per_round"):
        number = getattr(case.session, key)
        if number is not None and number > clients:
            raise FednPartialError(f"session: {key} is {number}, but {where} is {clients}")


def check_data(case: Case, shards: Iterable[Shard]) -> None:
    """Raise DataError if no client's data fit the case's model; clients whose data do not fit are refused later."""
    model = models.build(case.model, empty=True)
    errors = []
    for shard in shards:
        try:
            check_fits(shard, model)
            return
        except DataError as error:
            errors.append(error)
    raise DataError(f"no client can train: {errors[0]}")
