"""Processes of a real FEDn network are killed in the middle of a session."""

import os
import signal
import time

import pytest
from conftest import Run, assert_models_are_what_clients_sent, committed_model, make_case, wait_until
from server_functions.merging import HeavyBall, assert_merged, kept_updates

from fedn_partial.errors import FednPartialError


def is_training(running) -> bool:
    """Return whether a client of the fleet runs its compute package's train.py now."""
    return any(
        "train.py" in " ".join(child.cmdline())
        for client in running.fleet.clients.values()
        for child in client.children(recursive=True)
    )


def kill(running, name: str) -> None:
    os.kill(running.network.running[name].pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def survived(running, tmp_path_factory):
    """A session in which the hooks, the object store and the combiner are killed, each while clients train."""
    done = {}

    def kill_one_after_the_other(poller):
        for number, name in ((2, "hooks"), (4, "storage"), (6, "combiner")):
            wait_until(lambda number=number: len(poller.rounds) >= number and is_training(running))
            kill(running, name)
            done[name] = time.monotonic()

    case = make_case(session={"rounds": 9, "round_timeout": 60, "min_clients": 3})
    run = Run(running, tmp_path_factory.mktemp("faults"), case, kill_one_after_the_other)
    assert list(done) == ["hooks", "storage", "combiner"]
    return run


def test_a_session_survives_the_end_of_hooks_storage_and_combiner(running, survived, tmp_path):
    statuses = [round_.status for round_ in survived.rounds()]
    assert len(statuses) == 9 and statuses.count("Failed") <= 2, statuses
    assert statuses[-2:] == ["Finished", "Finished"] and survived.final["problem"] is None
    assert_models_are_what_clients_sent(running, survived, tmp_path)


def test_what_ended_is_named_at_once_and_started_again(survived):
    texts = [event["text"] for event in survived.events if event["event"] == "network"]
    for name in ("hooks", "storage", "combiner"):
        assert f"{name} ended (SIGKILL) and is started again in 1 s" in texts
        assert f"{name} runs again" in texts


def test_momentum_survives_the_end_of_the_hooks_between_rounds(running, tmp_path):
    """Every committed model is that of heavy ball over the updates that were sent, from the first round to the last."""
    done = []

    def kill_hooks(poller):
        for number in (2, 4):
            wait_until(lambda number=number: len(poller.rounds) >= number and is_training(running))
            kill(running, "hooks")
            done.append(number)

    optimizer = {"name": "momentum", "beta": 0.8, "learning_rate": 0.5}
    session = {"rounds": 6, "round_timeout": 60, "min_clients": 3}
    run = Run(running, tmp_path, make_case(server_optimizer=optimizer, session=session), kill_hooks)
    assert done == [2, 4] and run.final["problem"] is None
    good = [round_ for round_ in run.rounds() if round_.status == "Finished"]
    assert len(good) >= 5
    optimize = HeavyBall(beta=0.8, rate=0.5)
    for round_ in good:
        before, after = (committed_model(running, model, tmp_path) for model in (round_.model, round_.new_model))
        updates = [u for u in kept_updates(running.updates, before) if u[0]["round"] == round_.number]
        assert updates
        assert_merged(run.layers, before, after, updates, optimize)
    temporary = running.network.folder / "tmp"  # of the hooks
    session = updates[0][0]["session"]
    assert [path.name for path in temporary.glob(f"fedn-partial-{session}*")] == [f"fedn-partial-{session}.json"]


def test_a_session_whose_controller_ends_says_so_and_the_next_one_starts(running, tmp_path):
    killed = []

    def kill_controller(poller):
        wait_until(lambda: len(poller.rounds) >= 2 and is_training(running))
        kill(running, "controller")
        killed.append(time.monotonic())

    case = make_case(session={"rounds": 50, "round_timeout": 60, "min_clients": 3})
    run = Run(running, tmp_path, case, kill_controller)
    assert time.monotonic() - killed[0] < 15
    assert "of 50 rounds" in run.final["problem"]
    again = Run(running, tmp_path, make_case(session={"rounds": 2, "round_timeout": 60, "min_clients": 3}))
    assert again.final["problem"] is None
    assert_models_are_what_clients_sent(running, again, tmp_path)


def test_devices_that_train_for_a_terminated_session_serve_the_next_one(running, tmp_path):
    """With 1,000 epochs they would train for minutes, and round_timeout ends that after 300 s only."""
    terminated = []

    def terminate(poller):
        wait_until(lambda: is_training(running))
        running.api.patch(f"sessions/{poller.session_id}", json={"status": "Terminated"})
        terminated.append(time.monotonic())

    long = {"rounds": 2, "round_timeout": 300, "min_clients": 3}
    Run(running, tmp_path, make_case(session=long, training={"epochs": 1000}), terminate)
    again = Run(running, tmp_path, make_case(session={"rounds": 2, "round_timeout": 60, "min_clients": 3}))
    assert again.final["problem"] is None
    assert [len(round_.rows) for round_ in again.rounds()] == [3, 3]
    assert time.monotonic() - terminated[0] < 150
    assert_models_are_what_clients_sent(running, again, tmp_path)


def test_a_controller_that_cannot_be_started_again_ends_the_run_with_its_log(running, tmp_path):
    settings, killed = running.network.folder / "settings.yaml", []

    def end_controller(poller):
        wait_until(lambda: len(poller.rounds) >= 2 and is_training(running))
        settings.rename(settings.with_suffix(".away"))
        kill(running, "controller")
        killed.append(time.monotonic())

    case = make_case(session={"rounds": 50, "round_timeout": 60, "min_clients": 3})
    with pytest.raises(FednPartialError, match=r"(?s)controller ended 4 times in a row.*settings\.yaml"):
        Run(running, tmp_path, case, end_controller)
    assert time.monotonic() - killed[0] < 30  # 10 s on an idle machine
