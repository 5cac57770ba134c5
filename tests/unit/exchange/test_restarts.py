"""State of the server functions across restarts of the hooks process, and rounds without one."""

from __future__ import annotations

import tempfile

import pytest
from fedn.network.combiner.hooks import hooks
from server_functions.server_oracles import assert_close, assert_same_bits, merged_by_hand
from server_functions.server_worlds import PROVIDED, SELECTIONS, client

from fedn_partial.settings.case import Device, load_round_settings


def test_a_restarted_hooks_process_goes_on_where_the_old_one_was(normalised, start, send):
    combiner = start(normalised, warmup_rounds=2)
    good = send(normalised, client(normalised, "a", ["conv0"]))
    combiner.round(normalised.model, good)
    combiner.round(normalised.model, [])
    combiner.restart_hooks()
    told = combiner.round(normalised.model, good).settings
    assert told["round"] == 3
    assert told["warmup"] is True
    assert told["previous"] == {
        "round": 2,
        "merged": [],
        "skipped": {},
        "late": {},
        "notes": [],
        "staleness": {"conv0": 1, "conv1": 2, "dense": 2},
    }
    combiner.restart_hooks()
    told = combiner.round(normalised.model, good).settings
    assert told["round"] == 4
    assert told["warmup"] is False
    assert (told["previous"]["round"], told["previous"]["merged"]) == (3, ["id-a"])
    assert told["previous"]["staleness"] == {"conv1": 3, "dense": 3}


def test_another_session_starts_from_round_1(normalised, start, send):
    good = send(normalised, client(normalised, "a", ["conv0"]))
    start(normalised, key="one").round(normalised.model, good)
    told = start(normalised, key="two").round(normalised.model, good).settings
    assert (told["round"], told["previous"]) == (1, {})


def test_a_restart_while_clients_train_makes_no_wrong_model(normalised, start, send):
    """The new process has no server functions until the next round, so FEDn fails this one.

    FEDn's hooks service also keeps what it got meanwhile, and so loses these clients' next updates, without a word.
    """
    combiner = start(normalised)
    clients = [client(normalised, "a", ["conv0"], 30), client(normalised, "b", ["conv0", "dense"], 70)]
    uploads = send(normalised, *clients)
    assert combiner.round(normalised.model, uploads, during=combiner.restart_hooks).model is None
    second = combiner.round(normalised.model, uploads)
    assert second.settings["round"] == 2
    assert_same_bits(second.model, normalised.model)
    third = combiner.round(second.model, uploads)
    assert_close(third.model, merged_by_hand(normalised, clients, "all_clients"))


def test_a_hooks_process_that_is_restarted_while_clients_train_goes_on_with_the_round(normalised, start, send):
    combiner = start(normalised)
    clients = [client(normalised, "a", ["conv0"], 30), client(normalised, "b", ["conv0", "dense"], 70)]

    def restart():
        combiner.restart_hooks()
        combiner.provided_functions()  # as our combiner does before it has the round merged

    result = combiner.round(normalised.model, send(normalised, *clients), during=restart)
    assert_close(result.model, merged_by_hand(normalised, clients, "all_clients"))
    (note,) = combiner.round(result.model, []).settings["previous"]["notes"]
    assert note.startswith("the hooks process was restarted")


def test_a_kept_model_is_taken_again_after_a_round_that_was_not_committed(normalised, start, send):
    """As when the object store is gone while FEDn commits."""
    combiner = start(normalised)
    a = client(normalised, "a", ["dense"])
    combiner.round(normalised.model, send(normalised, a))
    again = combiner.round(normalised.model, send(normalised, a))
    assert_close(again.model, merged_by_hand(normalised, [a], "all_clients"))


BROKEN_STATES = {
    "empty": b"",
    "cut off": b'{"round": 3, "merged_rou',
    "not text": b"\xff\xfe\x00\x93",
    "a number": b"7",
    "null": b"null",
    "a list": b"[]",
    "without keys": b"{}",
    "of an older version": b'{"round": 3}',
    "round is text": b'{"round": "3", "merged_rounds": 1, "staleness": {}, "previous": {}}',
    "staleness is a list": b'{"round": 3, "merged_rounds": 1, "staleness": [], "previous": {}}',
}


@pytest.mark.parametrize("kind", [*BROKEN_STATES, "a folder"])
def test_a_broken_state_file_costs_the_count_only(kind, normalised, start, send):
    combiner = start(normalised)
    combiner.provided_functions()
    path = combiner.hooks.server_functions.state_path()
    assert path.startswith(tempfile.gettempdir())
    if kind == "a folder":
        hooks.os.mkdir(path)
    else:
        with open(path, "wb") as file:
            file.write(BROKEN_STATES[kind])
    combiner.restart_hooks()
    clients = [client(normalised, "a", ["conv0"], 30), client(normalised, "b", ["conv0", "dense"], 70)]
    result = combiner.round(normalised.model, send(normalised, *clients))
    load_round_settings(result.settings, Device(data="unused"))
    assert_close(result.model, merged_by_hand(normalised, clients, "all_clients"))
    assert combiner.provided_functions() == PROVIDED


@pytest.mark.parametrize("when", ["before the round", "while the clients train"])
def test_with_the_hooks_down_the_round_fails(when, normalised, start, send):
    combiner = start(normalised)
    clients = [client(normalised, *one) for one in SELECTIONS["overlapping"]]
    uploads = send(normalised, *clients)
    if when == "before the round":
        combiner.stop_hooks()
        result = combiner.round(normalised.model, uploads)
        assert result.settings == {}
    else:
        result = combiner.round(normalised.model, uploads, during=combiner.stop_hooks)
    assert result.model is None
    combiner.restart_hooks()
    following = combiner.round(normalised.model, uploads)
    assert_close(following.model, merged_by_hand(normalised, clients, "all_clients"))
