"""What clients that lie can do to a real FEDn network: messages over gRPC that no client of ours sends."""

import io
import json
import re
import time
import zipfile
from pathlib import Path

import fedn.network.grpc.fedn_pb2 as messages
import fedn.network.grpc.fedn_pb2_grpc as rpc
import grpc
import numpy as np
import pytest
from conftest import Run, assert_models_are_what_clients_sent, committed_model, make_case, wait_until
from fedn.network.combiner.modelservice import upload_request_generator

from fedn_partial.exchange import wire


class Attacker:
    """Speaks FEDn's protocol with a combiner, under whatever name."""

    def __init__(self, running):
        self.channel = grpc.insecure_channel(f"127.0.0.1:{running.network.ports['combiner']}")
        self.models, self.combiner = rpc.ModelServiceStub(self.channel), rpc.CombinerStub(self.channel)

    def upload(self, model_id: str, data: bytes) -> None:
        self.models.Upload(upload_request_generator(io.BytesIO(data), model_id), timeout=60)

    def download(self, model_id: str) -> bytes:
        parts = self.models.Download(messages.ModelRequest(id=model_id), timeout=60)
        return b"".join(part.data for part in parts if part.status == messages.ModelStatus.IN_PROGRESS)

    def send(self, client_id: str, model_id: str, update_id: str, round_id: str, **metadata) -> None:
        message = messages.ModelUpdate(model_id=model_id, model_update_id=update_id)
        message.sender.name, message.sender.client_id, message.sender.role = client_id, client_id, messages.CLIENT
        config = json.dumps({"round_id": round_id})
        message.meta = json.dumps({"training_metadata": {"num_examples": 10**6, **metadata}, "config": config})
        self.combiner.SendModelUpdate(message, timeout=60)


def whole_model(arrays) -> bytes:
    """Return a model as FEDn's own clients send it."""
    file = io.BytesIO()
    np.savez_compressed(file, **{str(index): array for index, array in enumerate(arrays)})
    return file.getvalue()


def bomb(megabytes: int) -> bytes:
    """Return an npz file of some kilobytes that inflates to so many megabytes."""
    file, header = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (megabytes << 18,)})
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("0.npy", "w", force_zip64=True) as member,
    ):
        member.write(header.getvalue())
        for _ in range(megabytes):
            member.write(bytes(1 << 20))
    return file.getvalue()


@pytest.fixture(scope="module")
def attacked(running, tmp_path_factory):
    """A session in whose rounds liars send what once replaced the model, ended the hooks process, or wrote files."""
    attacker, refused = Attacker(running), []

    def attack(poller):
        whole, inflating = whole_model([np.zeros((2, 2), np.complex64)] * 80), bomb(400)
        for number in (2, 3, 4, 5):
            wait_until(lambda number=number: len(poller.rounds) >= number and newest(poller).model)
            round_ = newest(poller)
            attacker.upload(f"whole-{number}", whole)
            attacker.upload(f"bomb-{number}", inflating)
            for name in ("nobody", "global_model"):
                attacker.send(name, round_.model, f"never-uploaded-{number}", round_.id)
                attacker.send(name, round_.model, f"whole-{number}", round_.id)
            attacker.send("bomber", round_.model, f"bomb-{number}", round_.id)
            for client_id in (f"made-up-{k}" for k in range(30)):
                attacker.send(client_id, round_.model, f"whole-{number}", round_.id, format=2, session="x", round=1)
            for model_id in ("../../evil", "..", "/evil", "a/b", "", "x" * 300, "../fedn.db"):
                try:
                    attacker.upload(model_id, b"evil")
                except grpc.RpcError:
                    refused.append(model_id)
                assert attacker.download(model_id) == b""

    case = make_case(name="attacked", session={"rounds": 6, "round_timeout": 40, "min_clients": 3})
    run = Run(running, tmp_path_factory.mktemp("attacked"), case, attack)
    status = Path(f"/proc/{running.network.running['hooks'].pid}/status").read_text()
    return run, refused, 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # the most that it ever held


def newest(poller):
    return max(poller.rounds.values(), key=lambda round_: int(round_.id))


def test_every_committed_model_is_what_the_clients_sent(running, attacked, tmp_path):
    run, _, _ = attacked
    assert [round_.status for round_ in run.rounds()] == ["Finished"] * 6
    assert_models_are_what_clients_sent(running, run, tmp_path)
    for round_ in run.rounds()[:-1]:
        assert {row.outcome_text() for row in round_.rows.values()} == {"merged"}
    log = running.network.log("hooks").read_text()
    for line in (
        "skipped the update of nobody: its model is not a zip file",
        "skipped the update of bomber: its model has 419,430,",
        "skipped the update of made-up-29: ",
    ):
        assert line in log
    assert "reserved id 'global_model'" in running.network.log("combiner").read_text()


def test_a_model_that_inflates_costs_no_memory(attacked):
    _, _, memory = attacked
    assert memory < 400e6, memory


def test_an_id_that_is_a_path_neither_writes_nor_reads_a_file(running, attacked):
    _, refused, _ = attacked
    assert len(refused) == 7 * 4
    assert not list(running.network.folder.parent.rglob("evil*"))
    assert (running.network.folder / "fedn.db").read_bytes().startswith(b"SQLite format 3")


def test_updates_of_an_earlier_session_from_the_same_model_are_not_merged(running, tmp_path):
    """As clients deliver them whose combiner was killed: same clients, same model, trained for another session."""
    attacker = Attacker(running)
    kept = sorted(running.updates.glob("*.json"), key=lambda path: path.stat().st_mtime)[-3:]
    ids = {client["name"]: client["client_id"] for client in running.api.get("clients/")["result"]}

    def deliver(poller):
        wait_until(lambda: len(poller.rounds) >= 1 and newest(poller).model)
        round_ = newest(poller)
        base = wire.digest(committed_model(running, round_.model, tmp_path))
        for number, path in enumerate(kept):
            metadata = {**json.loads(path.read_text()), "base": base, "round": 1}
            attacker.upload(f"old-{number}", path.with_suffix(".npz").read_bytes())
            attacker.send(ids[metadata["client"]], round_.model, f"old-{number}", "0", **metadata)

    case = make_case(name="later", session={"rounds": 3, "round_timeout": 40, "min_clients": 3})
    run = Run(running, tmp_path, case, deliver)
    assert run.final["problem"] is None
    assert_models_are_what_clients_sent(running, run, tmp_path)
    assert running.network.log("hooks").read_text().count(": belongs to another session") >= 3


def test_nobody_but_the_controller_gives_the_combiner_orders(running):
    """FEDn takes rounds and server functions, which are code, from any client."""
    attacker = Attacker(running)
    control = rpc.ControlStub(attacker.channel)
    request = messages.ControlRequest()
    request.parameter.add(key="server_functions", value="raise SystemExit")
    for order in (control.SetServerFunctions, control.SetAggregator, control.Start, control.Stop):
        with pytest.raises(grpc.RpcError) as refused:
            order(request, timeout=10, metadata=[("fedn-partial-control-key", "guessed")])
        assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_a_client_cannot_put_its_own_file_in_the_place_of_a_global_model(running, tmp_path):
    """Before the combiner has the model, while it has it, and in the moment after a round has made a new one."""
    attacker, refused = Attacker(running), []
    own = whole_model([np.full((2, 2), 666, np.complex64)] * 80)
    newest_id = running.api.get("models/", limit=1, order="desc")["result"][0]["model_id"]

    def try_upload(model_id):
        try:
            attacker.upload(model_id, own)
        except grpc.RpcError:
            refused.append(model_id)

    try_upload(newest_id)
    ids = [client["client_id"] for client in running.api.get("clients/")["result"]]

    def attack(poller):
        seen = set()
        while not poller.over:
            for model in running.api.get("models/", limit=2, order="desc")["result"]:
                try_upload(model["model_id"])
            for round_ in list(poller.rounds.values()):
                if round_.model and round_.id not in seen:
                    seen.add(round_.id)
                    for client_id in ids:
                        attacker.send(client_id, round_.model, newest_id, round_.id)
            time.sleep(0.05)

    case = make_case(name="squatted", session={"rounds": 3, "round_timeout": 40, "min_clients": 3})
    run = Run(running, tmp_path, case, attack)
    assert refused
    for round_ in run.rounds():
        if round_.status == "Finished":
            model = committed_model(running, round_.new_model, tmp_path)
            assert all(array.dtype == np.float32 and (array != 666).all() for array in model)
    again = Run(running, tmp_path, make_case(session={"rounds": 2, "round_timeout": 40, "min_clients": 3}))
    assert again.final["problem"] is None
    assert_models_are_what_clients_sent(running, again, tmp_path)


def test_a_flood_of_messages_neither_ends_a_round_nor_keeps_it_open(running, tmp_path):
    attacker, sent = Attacker(running), []
    deep = "[" * 900 + "]" * 900

    def flood(poller):
        wait_until(lambda: len(poller.rounds) >= 2 and newest(poller).model)
        round_ = newest(poller)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not round_.over:
            attacker.send("flooder", round_.model, "none", round_.id)
            attacker.send("flooder", round_.model, "none", round_.id, nested=json.loads(deep))
            sent.append(1)

    case = make_case(name="flooded", session={"rounds": 3, "round_timeout": 40, "min_clients": 3})
    run = Run(running, tmp_path, case, flood)
    assert len(sent) > 100 and [round_.status for round_ in run.rounds()] == ["Finished"] * 3
    assert_models_are_what_clients_sent(running, run, tmp_path)
