"""Settings and signals that the server functions send to the clients of a round."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from server_functions.server_worlds import client, with_metadata

from fedn_partial.exchange import wire
from fedn_partial.settings.case import Device, RoundSettings, Session, Training, load_round_settings
from fedn_partial.submodel.layers import fingerprint


def test_the_settings_are_what_a_client_reads(normalised, start, send):
    combiner = start(normalised, warmup_rounds=1)
    told = combiner.round(normalised.model, send(normalised, client(normalised, "a"))).settings
    settings = load_round_settings(told, Device(data="unused"))
    assert settings == RoundSettings(
        round=1,
        warmup=True,
        seed=1,
        model={"name": "vgg16"},
        fingerprint=fingerprint(normalised.layers),
        base=wire.digest(normalised.model),
        selection={"selector": "uniform", "layers": 2, "warmup_rounds": 1},
        codec="float32",
        session_id="session",
        session=Session(),
        training=Training(),
        previous={},
    )


def test_rounds_count_up_and_the_base_is_that_of_the_model(normalised, start, send):
    combiner = start(normalised)
    model = normalised.model
    for number in (1, 2, 3):
        uploads = send(normalised, client(normalised, "a", seed=number), base=model)
        result = combiner.round(model, uploads)
        assert result.settings["round"] == number
        assert result.settings["base"] == wire.digest(model)
        assert result.settings["fingerprint"] == fingerprint(normalised.layers)
        load_round_settings(result.settings, Device(data="unused"))
        model = result.model


def test_warmup_ends_after_as_many_rounds_that_merged_something(normalised, start, send):
    combiner = start(normalised, warmup_rounds=2)
    good = send(normalised, client(normalised, "a", ["conv0"]))
    bad = [with_metadata(base="0" * 32)(good[0])]
    rounds = [combiner.round(normalised.model, uploads) for uploads in (good, bad, [], good, good, good)]
    assert [one.settings["warmup"] for one in rounds] == [True, True, True, True, False, False]


def test_scores_are_the_relative_change_that_clients_made(normalised, start, send):
    clients = [client(normalised, "a", ["conv1"], 30), client(normalised, "b", ["conv0", "conv1", "dense"], 90)]
    combiner = start(normalised, selection={"selector": "scored", "layers": 2})
    result = combiner.round(normalised.model, send(normalised, *clients))
    assert result.settings["scores"] == {}
    told = combiner.round(result.model, []).settings["scores"]
    expected = {}
    for name, senders in {"conv0": clients[1:], "conv1": clients, "dense": clients[1:]}.items():
        indices = [tensor.index for tensor in normalised.layer(name).tensors if not tensor.statistic]
        old = np.concatenate([normalised.model[index].ravel() for index in indices])
        changes = [np.concatenate([one.weights[index].ravel() for index in indices]) - old for one in senders]
        squares = [np.sum(change.astype(np.float64) ** 2) for change in changes]
        expected[name] = np.sqrt(np.average(squares, weights=[one.examples for one in senders])) / np.linalg.norm(old)
    assert told == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("clients", [1500, 30_000])
def test_the_settings_fit_a_message_whatever_clients_say(clients, normalised, start, caplog):
    caplog.set_level(logging.CRITICAL, logger="fedn")  # a line for each client would fill the memory
    combiner = start(normalised, selection={"selector": "stratified", "layers": 2})
    combiner.provided_functions()
    functions = combiner.hooks.server_functions
    ids = [f"{number:036d}" for number in range(clients)]
    functions.client_selection(ids)
    functions.client_settings(normalised.model)
    for client_id in ids:
        functions.skip(client_id, {"client": "\u4e00" * 101, "refused": ""}, "\U0001f600" * 501)
        functions.state["names"][client_id] = "\U0001f600" * 100
    model = functions.get_incremental_aggregate_model()
    told = functions.client_settings(model)
    assert len(json.dumps(told)) < 1_100_000
    assert load_round_settings(told, Device(data="unused")).round == 2
