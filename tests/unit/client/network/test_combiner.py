"""Corrections of FEDn's combiner, without its processes."""

import json
import queue
import subprocess
import sys
import types

import fedn.network.grpc.fedn_pb2 as messages
import pytest

from fedn_partial.client.network.fedn_process import model_storage, updates


@pytest.fixture
def storage(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDN_MODEL_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(model_storage, "UPLOAD_SLACK", 10)
    return model_storage.CheckedStorage()


def upload(storage, model_id, data):
    with storage.get_ptr(model_id) as file:
        file.write(data)


@pytest.mark.parametrize("model_id", ["../evil", "..", "/evil", "a/b", "", "x" * 129])
def test_ids_that_are_paths_are_refused(storage, model_id):
    for call in (lambda: storage.get_ptr(model_id), lambda: storage.set_model_metadata(model_id, 0)):
        with pytest.raises(ValueError, match="invalid model id"):
            call()
    assert storage.delete(model_id) is False


def test_a_global_model_replaces_uploads_and_cannot_be_replaced(storage, tmp_path):
    upload(storage, "m1", b"fake")
    storage.stage("m1", lambda model_id: upload(storage, model_id, b"the global model"))
    assert (tmp_path / "models/m1").read_bytes() == b"the global model"
    with pytest.raises(ValueError, match="m1 is a global model"):
        storage.get_ptr("m1")
    storage.stage("m1", pytest.fail)  # it is there
    assert storage.delete("m1") is True and storage.global_models == set()


def test_an_upload_is_at_most_twice_the_global_model(storage):
    storage.stage("m1", lambda model_id: upload(storage, model_id, bytes(20)))
    upload(storage, "u1", bytes(50))
    with pytest.raises(ValueError, match="the model is larger than 50 bytes"):
        upload(storage, "u2", bytes(51))


def test_a_global_model_that_cannot_be_staged_leaves_nothing(storage, tmp_path):
    def fail(model_id):
        upload(storage, model_id, b"half")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        storage.stage("m1", fail)
    assert not list((tmp_path / "models").iterdir()) and storage.staging_thread is None


def nested(depth):
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("text", "depth"), [("1", 1), ('{"a": 1}', 2), (nested(5), 5), (nested(10**6), 21), ("no JSON", 21)]
)
def test_the_depth_of_metadata(text, depth):
    assert updates._depth(text) == depth


# The patches are applied in a process of their own, as they change FEDn's classes.
PATCHED = """
from fedn.network.combiner import modelservice
from fedn.network.combiner.combiner import Combiner
from fedn.network.combiner.roundhandler import RoundHandler
from fedn.network.combiner.updatehandler import UpdateHandler
from fedn.network.grpc import server
from fedn_partial.client.network.fedn_process import combiner, model_storage, rounds, updates
combiner.correct()
assert modelservice.TempModelStorage is model_storage.CheckedStorage
assert UpdateHandler.waitforit is updates._wait and UpdateHandler._validate_model_update is updates._validate
assert RoundHandler._training_round is rounds._training_round and Combiner.run is rounds._run_combiner
assert server.JWTInterceptor.__name__ == "Guard"
assert RoundHandler.run.retry.wait.wait_fixed == 1
"""


def test_the_corrections_are_in_place():
    subprocess.run([sys.executable, "-c", PATCHED], check=True, capture_output=True, timeout=120)


@pytest.fixture
def handler(monkeypatch):
    monkeypatch.setattr(updates, "_fedn_validate", lambda handler, update: True)
    made = types.SimpleNamespace(lock=updates.threading.Lock(), model_updates=queue.Queue())
    made.abandoned = False
    updates.begin_round(made, "7", ["a", "b"], lambda: made.abandoned)
    return made


def message(client, round_id="7"):
    update = messages.ModelUpdate(meta=json.dumps({"config": json.dumps({"round_id": round_id})}))
    update.sender.client_id = client
    return update


def test_messages_of_a_client_and_of_others_are_limited(handler):
    assert [updates._validate(handler, message("a")) for _ in range(5)] == [True] * 3 + [False] * 2
    others = [message("b", "6"), *(message(f"x{number}") for number in range(60))]
    assert sum(updates._validate(handler, update) for update in others) == updates.OTHER_MESSAGES
    assert updates._validate(handler, message("b")) and not updates._validate(handler, message("global_model"))


def test_the_wait_ends_when_the_requested_clients_have_answered(handler, monkeypatch):
    monkeypatch.setattr(updates.fallback, "is_ours", lambda config: True)
    for client in ("a", "stranger"):
        updates._validate(handler, message(client))
    config = {"round_timeout": "0.2"}
    assert updates._wait(handler, config, 2, 0.05) is None and handler.answered & handler.requested == {"a"}
    updates._validate(handler, message("b"))
    updates._wait(handler, {"round_timeout": "600"}, 2)


def test_the_wait_ends_when_the_controller_requests_another_round(handler, monkeypatch):
    monkeypatch.setattr(updates.fallback, "is_ours", lambda config: True)
    handler.abandoned = True
    updates._wait(handler, {"round_timeout": "600"}, 2)
