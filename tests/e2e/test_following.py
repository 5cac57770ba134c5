"""Clients without TensorFlow on a real FEDn network: every row of theirs is there, and says what happened to them."""

import itertools
import json
import threading
import time

import pytest
from conftest import make_case
from fedn.network.grpc import fedn_pb2
from fedn_servers.light_clients import LightClient, settings_of, take_part, train
from reports.run_folders import outcome_of

from fedn_partial.client.fedn_api.api import Api
from fedn_partial.client.follow import progress
from fedn_partial.client.follow.collect import collect
from fedn_partial.client.follow.poller import SessionPoller
from fedn_partial.client.network.network import Network
from fedn_partial.client.records.run_folder import RunFolder
from fedn_partial.seed_model.package import build_package, upload_package
from fedn_partial.seed_model.seed import build_seed, upload_seed
from fedn_partial.seed_model.session import start_session

CLIENTS, ROUNDS = 100, 2


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """A network that has a compute package and a seed model."""
    folder = tmp_path_factory.mktemp("many")
    network = Network(folder / "network")
    try:
        network.up(tied=True)
        api = Api(network.url)
        build_package(folder / "package.tgz")
        upload_package(api, folder / "package.tgz")
        build_seed(make_case(), folder / "seed.npz")
        upload_seed(api, folder / "seed.npz")
        yield api
    finally:
        network.down()


def wait_until_online_are(api, ids):
    """Also until FEDn no longer counts those of another test, which is 15 seconds after they went."""
    deadline = time.monotonic() + 60
    while {client["client_id"] for client in api.get("clients/", params={"status": "online"})["result"]} != ids:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def follow(api, clients, case, folder, on_event=lambda event: None):
    """Run a session with light clients; return its final metrics and rows, in time and after the event."""
    try:
        for client in clients:
            client.connect()
        wait_until_online_are(api, {client.client_id for client in clients})
        session_id, layers = start_session(api, case)
        run = RunFolder(folder / "run", case)
        final = progress.follow(SessionPoller(api, session_id), case, layers, run, on_event=on_event)
        assert [client.errors for client in clients if client.errors] == []
    finally:
        for client in clients:
            client.disconnect()
    home = collect(api, session_id, folder / "collected")
    texts = [(path / "rounds.jsonl").read_text() for path in (run.path, home)]
    return final, *[[json.loads(line) for line in text.splitlines()] for text in texts]


def test_a_late_update_is_called_late_a_silent_client_named_and_twins_kept_apart(api, tmp_path):
    """One client sends its first update when it is asked for its second; two have one name."""
    held, events, shown = [], [], threading.Event()

    def on_event(event):
        events.append(event)
        if event.get("round") == 1:
            shown.set()

    def slow(client, request):
        if request.type == fedn_pb2.StatusType.MODEL_UPDATE:
            if not held:
                held.append((request, client.download(request.model_id)))
                return
            if len(held) == 1:
                shown.wait(7)
                train(client, *held[0])
                held.append(None)
        take_part(client, request)

    def tested(accuracy):
        def answer(client, request):
            if request.type == fedn_pb2.StatusType.MODEL_UPDATE:
                train(client, request)
            else:
                metrics = {"accuracy": accuracy, "loss": 1.0, "test_examples": 10}
                client.validate(request.model_id, metrics, request.session_id)

        return answer

    url = api.connection.base_url
    clients = [
        LightClient(url, "slow", "slow-id", slow),
        LightClient(url, "twin", "one-of-two", tested(0.25)),
        LightClient(url, "twin", "two-of-two", tested(0.75)),
    ]
    case = make_case(session={"rounds": 3, "round_timeout": 8, "min_clients": 3})
    _, *runs = follow(api, clients, case, tmp_path, on_event)
    first = next(event for event in events if event.get("round") == 1)
    (problem,) = first["problems"]
    assert problem.startswith("slow  no answer after ")
    assert any(str(event.get("text")).startswith("slow skipped: late, ") for event in events)
    for rows in runs:
        outcomes = {(row["round"], row["client"]): outcome_of(row) for row in rows}
        twins = {name for _, name in outcomes} - {"slow"}
        assert "twin" in twins and len(twins) == 2 and len(rows) == 9
        assert outcomes[1, "slow"] == "skipped: late, arrived in round 2"
        assert {outcomes[1, name] for name in twins} == {outcomes[2, name] for name in (*twins, "slow")} == {"merged"}
        accuracies = [{row["accuracy"] for row in rows if row["client"] == name} for name in sorted(twins)]
        assert sorted(accuracies, key=str) == [{0.25}, {0.75}], accuracies


def test_a_last_round_in_which_nothing_was_merged_is_said_to_be_one(api, tmp_path):
    """The server functions report on a round with the settings of the next one, and there is none."""

    def answer(client, request):
        if request.type == fedn_pb2.StatusType.MODEL_UPDATE and settings_of(request)["round"] == 2:
            train(client, request, session="another")
        else:
            take_part(client, request)

    clients = [LightClient(api.connection.base_url, f"late-{number}", on_request=answer) for number in range(2)]
    case = make_case(session={"rounds": 2, "round_timeout": 30, "min_clients": 2})
    final, *runs = follow(api, clients, case, tmp_path)
    assert final["problem"] == "no update was merged in its last round"
    for rows in runs:
        outcomes = {(row["round"], outcome_of(row)) for row in rows}
        assert outcomes == {(1, "merged"), (2, "skipped: nothing was merged in this round")}


def test_answers_under_made_up_ids_are_no_clients(api, tmp_path):
    events = []

    def answer(client, request):
        model = client.download(request.model_id)  # the combiner deletes it at the end of the round
        take_part(client, request)
        if request.type == fedn_pb2.StatusType.MODEL_UPDATE:
            for number in range(3):
                stranger = LightClient(api.connection.base_url, f"stranger-{number}")
                for name in ("connector", "combiner", "models", "metadata"):
                    setattr(stranger, name, getattr(client, name))
                train(stranger, request, model)

    clients = [LightClient(api.connection.base_url, "honest", on_request=answer)]
    case = make_case(session={"rounds": 2, "round_timeout": 30, "min_clients": 1})
    _, *runs = follow(api, clients, case, tmp_path, events.append)
    lines = [event for event in events if event.get("event") == "round"]
    assert [(line["clients"], line["clients_asked"]) for line in lines] == [(1, 1), (1, 1)]
    assert all(
        "updates with 3 sender ids unknown to this FEDn server are not counted" in line["problems"] for line in lines
    )
    assert all({row["client"] for row in rows} == {"honest"} for rows in runs)


def test_every_row_of_100_clients_is_there(api, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "POLL", 0.05)  # the more looks, the more rows come in between that FEDn dated before
    case = make_case(session={"rounds": ROUNDS, "round_timeout": 60, "min_clients": CLIENTS})
    names = [f"light-{number}" for number in range(1, CLIENTS + 1)]
    clients = [LightClient(api.connection.base_url, name, on_request=take_part) for name in names]
    final, *runs = follow(api, clients, case, tmp_path)
    assert final["problem"] is None
    for rows in runs:
        expected = set(itertools.product(range(1, ROUNDS + 1), names))
        assert {(row["round"], row["client"]) for row in rows} == expected
        assert len(rows) == CLIENTS * ROUNDS
        assert {outcome_of(row) for row in rows if row["round"] < ROUNDS} == {"merged"}
        assert {row["accuracy"] for row in rows} == {0.5}


def test_a_session_that_is_terminated_in_mid_round_ends_soon_with_what_to_do(api, tmp_path):
    """The second round waits for a client that does not answer, when FEDn is told to end the session."""
    trained, terminated = [], []

    def answer_once(client, request):
        if request.type == fedn_pb2.StatusType.MODEL_VALIDATION or not trained:
            trained.append(request)
            take_part(client, request)
        else:
            terminated.append(time.monotonic())
            api._call("PATCH", f"sessions/{request.session_id}", json={"status": "Terminated"})

    clients = [LightClient(api.connection.base_url, "once", on_request=answer_once)]
    case = make_case(session={"rounds": 5, "round_timeout": 60, "min_clients": 1})
    final, *runs = follow(api, clients, case, tmp_path)
    assert final["problem"].startswith("FEDn terminated it after 1 of 5 rounds; start the session again")
    assert time.monotonic() - terminated[0] < 20
    assert all({outcome_of(row) for row in rows} <= {"merged", "sent", "round failed"} for rows in runs)
