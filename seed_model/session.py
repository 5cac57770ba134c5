"""A session on FEDn with our server functions."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

from fedn_partial import models
from fedn_partial.layers import Layer, layer_table
from fedn_partial.seed_model import seed, server_functions
from fedn_partial.seed_model.api import Api
from fedn_partial.selection import Context, choose, from_dict
from fedn_partial.settings import Case


def start_session(api: Api, case: Case) -> tuple[str, list[Layer]]:
    """Start a session of `case` from FEDn's newest model and return its id and the model's layers.

    Raises
    ------
    FednPartialError : the newest model is not of this case, or a layer name in `selection` is none of the model's.
    ApiError : FEDn refuses, such as with too few clients connected.
    """
    table = layer_table(models.build(case.model))
    choose(from_dict(case.selection), table, Context(seed=case.seed, round=1, client=""))
    model_id = seed.newest_model(api)
    with tempfile.TemporaryDirectory() as folder:
        seed.check_seed(api, model_id, table, Path(folder) / "model.npz")
    settings = server_functions.session_settings(case, table, session=secrets.token_hex(8))
    session = api.post(
        "sessions/",
        json={
            "name": case.name,
            "seed_model_id": model_id,
            "session_config": {
                "aggregator": "fedavg",  # never used: see fedn_partial.update on num_examples
                "round_timeout": case.session.round_timeout,
                "rounds": case.session.rounds,
                "buffer_size": -1,
                "model_id": model_id,
                "delete_models_storage": True,
                "clients_required": case.session.min_clients,
                "validate": True,
                "helper_type": "numpyhelper",
                "server_functions": server_functions.source(settings),
            },
        },
    )
    session_id = session["session_id"]
    start = {"session_id": session_id, "rounds": case.session.rounds, "round_timeout": case.session.round_timeout}
    api.post("sessions/start", json=start)
    return session_id, table
