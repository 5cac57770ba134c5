"""Global models and clients of other sessions, and FEDn's own FedAvg."""

from __future__ import annotations

import numpy as np
import pytest
from server_functions.hooks_harness import Upload, npz
from server_functions.server_oracles import assert_close, assert_same_bits, log_lines, merged_by_hand, stock_fedavg
from server_functions.server_worlds import client, made, random_model, read_upload, whole, with_metadata

from fedn_partial.runtime import refusal
from fedn_partial.settings.case import Session


def test_a_client_with_the_id_of_the_global_model_does_not_replace_it(normalised, start, send):
    """FEDn's hooks take a model under that id for the global one."""
    a = client(normalised, "a", ["dense"])
    uploads = [Upload("global_model", npz([array * 9 for array in normalised.model]), {}), *send(normalised, a)]
    result = start(normalised).round(normalised.model, uploads)
    assert_close(result.model, merged_by_hand(normalised, [a], "all_clients"))


def test_nothing_is_merged_into_a_model_of_somebody_else(normalised, start, send, caplog):
    combiner = start(normalised)
    a = client(normalised, "a", ["dense"])
    model = combiner.round(normalised.model, send(normalised, a)).model
    stranger = random_model(normalised.layers, seed=9)
    result = combiner.round(stranger, [*send(normalised, a, base=stranger), whole(normalised, "b", 5, seed=1)])
    assert result.settings == {} and result.model is None  # FEDn fails the round
    following = combiner.round(model, send(normalised, a, base=model))
    assert_close(following.model, merged_by_hand(normalised, [a], "all_clients", model=model))
    (note,) = following.settings["previous"]["notes"]
    assert note == "after this round, the global model does not belong to this session"
    assert len(log_lines(caplog, "the global model does not belong to this session, session;")) == 1


@pytest.mark.parametrize("when", ["another model", "its rounds are over"])
def test_in_a_session_of_others_models_are_averaged_as_fedn_does(when, normalised, start, send, tmp_path, monkeypatch):
    combiner = start(normalised, session=Session(rounds=1, clients_per_round=1))
    model = combiner.round(normalised.model, send(normalised, client(normalised, "a", ["dense"]))).model
    if when == "another model":
        model = [np.zeros((2, 2), np.float32)]
    uploads = [
        whole(normalised, name, examples, seed) for seed, (name, examples) in enumerate({"b": 5, "c": 120}.items())
    ]
    result = combiner.round(model, uploads)
    assert result.settings == {}
    assert_same_bits(result.model, stock_fedavg(uploads, tmp_path, monkeypatch))
    assert combiner.hooks.server_functions.state["round"] == 1


@pytest.mark.parametrize("first", [True, False])
def test_two_messages_do_not_replace_the_model_on_a_foreign_fedn(first, normalised, start, send, monkeypatch):
    """A message about a model that was never uploaded fails FEDn's aggregation; FEDn then averages by itself."""
    monkeypatch.setattr("fedn.network.combiner.updatehandler.time.sleep", lambda seconds: None)
    combiner = start(normalised)
    a = client(normalised, "a", ["dense"])
    attack = [Upload("id-x", None, {"num_examples": 1}), whole(normalised, "y", 10**6, seed=1)]
    uploads = attack + send(normalised, a) if first else send(normalised, a) + attack
    result = combiner.round(normalised.model, uploads)
    assert result.model is None  # FEDn fails the round and keeps the model
    assert combiner.handler.update_handler.model_updates.empty()  # what is left would end the next round at once
    following = combiner.round(normalised.model, send(normalised, a))
    assert_close(following.model, merged_by_hand(normalised, [a], "all_clients"))


def test_a_strange_model_in_a_running_session_never_becomes_the_global_one(normalised, start):
    """Whole models with counts, as FEDn's own clients send them, in the names of the asked clients."""
    functions = made(normalised, session=Session(clients_per_round=1))
    functions.client_selection(["id-a", "id-b"])
    strange = [np.zeros_like(array) for array in normalised.model]
    assert functions.client_settings(strange) == {}
    functions.incremental_aggregate("id-a", strange, {"num_examples": 10}, strange)
    with pytest.raises(RuntimeError, match="does not belong to this session"):
        functions.get_incremental_aggregate_model()
    assert functions.state["previous"]["notes"] == [
        "after this round, the global model does not belong to this session"
    ]
    assert functions.state["previous"]["round"] == 0
    assert len(functions.client_selection(["id-a", "id-b"])) == 1


def test_stock_fedavg_makes_no_model_of_our_updates(normalised, send, tmp_path, monkeypatch, caplog):
    uploads = send(normalised, client(normalised, "a", examples=30), client(normalised, "b", ["conv0"], 5))
    path = str(tmp_path / "refusal")
    refusal.write_refusal(path, "the memory ran out")
    uploads.append(read_upload("id-c", path))
    assert stock_fedavg(uploads, tmp_path, monkeypatch) is None
    assert len(log_lines(caplog, "unsupported operand type(s) for +=: 'int' and 'str'")) >= len(uploads)
    # With numbers it does, and that would be a global model of two arrays: the text is what stops it.
    numbers = [with_metadata(num_examples=7)(upload) for upload in uploads[:1]]
    assert len(stock_fedavg(numbers, tmp_path, monkeypatch)) == 2
