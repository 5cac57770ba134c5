"""Clients that the server functions select, and those that were not selected."""

from __future__ import annotations

from server_functions.server_oracles import assert_close, log_lines, merged_by_hand
from server_functions.server_worlds import client, made

from fedn_partial.settings.case import Session


def test_as_many_clients_as_the_session_says_are_drawn_each_round(normalised, start, send):
    names = [f"id-{number}" for number in range(10)]
    combiner = start(normalised, session=Session(rounds=99, clients_per_round=4))
    combiner.provided_functions()
    functions, drawn = combiner.hooks.server_functions, []
    for _ in range(50):
        drawn.append(functions.client_selection(names[::-1]))
        functions.client_settings(normalised.model)
    assert all(len(set(asked)) == 4 and set(asked) <= set(names) for asked in drawn)
    assert {name for asked in drawn for name in asked} == set(names)
    assert len({tuple(asked) for asked in drawn}) > 20
    assert functions.client_selection(names[:3]) == names[:3]


def test_a_client_that_was_not_asked_is_skipped_by_name(normalised, start, send, caplog):
    clients = [client(normalised, name, ["dense"]) for name in "abc"]
    combiner = start(normalised, session=Session(clients_per_round=2))
    result = combiner.round(normalised.model, send(normalised, *clients))
    asked = combiner.hooks.server_functions.state["asked"]
    drawn = [one for one in clients if f"id-{one.name}" in asked]
    assert_close(result.model, merged_by_hand(normalised, drawn, "all_clients"))
    (other,) = (one.name for one in clients if one not in drawn)
    assert log_lines(caplog, f"skipped the update of {other}: was not requested to train in this round")
    previous = combiner.round(result.model, []).settings["previous"]
    assert previous["skipped"] == {f"id-{other}": "was not requested to train in this round"}
    assert previous["notes"] == ["1 updates of clients that were not requested to train"]


def test_participants_are_named_once_they_have_sent_an_update(normalised, start, send):
    combiner = start(normalised, selection={"selector": "stratified", "layers": 2})
    uploads = send(normalised, client(normalised, "a"), client(normalised, "b"))
    first = combiner.round(normalised.model, uploads)
    assert first.settings["participants"] == ["id-a", "id-b"]
    base = first.model
    newcomers = send(normalised, client(normalised, "a"), client(normalised, "c"), base=base)
    second = combiner.round(base, newcomers)
    assert second.settings["participants"] == ["a", "id-c"]  # b is not connected any more


def test_made_up_ids_cost_no_outcome(normalised, start):
    functions = made(normalised)
    functions.client_selection(["id-a"])
    functions.client_settings(normalised.model)
    for number in range(1000):
        late = {"round": 0, "session": functions.client["session_id"]}
        functions.skip(f"{number}" + "x" * 100_000 * (number % 2), late, "x")
    assert len(functions.skipped) + len(functions.late) <= 20 and functions.unrequested == 1000
    assert max(map(len, functions.skipped)) <= 100
