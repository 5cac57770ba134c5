"""Following a session: from what FEDn's REST interface answers to the rows of rounds.jsonl."""

import json

import pytest
from fedn_servers.fake_controller import Fedn

from fedn_partial.client.follow import poller as poller_module
from fedn_partial.client.follow.poller import SessionPoller
from fedn_partial.client.follow.progress import cost_table, size, summary
from fedn_partial.client.records.run_folder import Row, weighted_mean
from fedn_partial.settings.case import Case
from fedn_partial.settings.schema import parse

CASE = parse(Case, {"name": "c", "model": {}, "selection": {}, "session": {"rounds": 1}}, "test")


@pytest.fixture
def fedn():
    return Fedn()


def rows_of(fedn, polls=1):
    poller = SessionPoller(fedn, "s")
    for _ in range(polls):
        poller.poll()
    return {number: dict(round_.rows) for number, round_ in poller.rounds.items()}, poller


def test_a_row_holds_what_the_update_said_and_what_the_validation_found(fedn):
    rows, poller = rows_of(fedn, polls=3)
    row = rows["1"]["a"]
    assert (row.round, row.fedn_round, row.client, row.warmup, row.outcome_text()) == (1, "1", "a", True, "sent")
    assert (row.layers, row.trained_params, row.num_examples) == (["conv0", "dense"], 50, 100)
    assert (row.upload_bytes, row.download_bytes) == (210, 1000)  # to train, and once more to validate
    assert (row.train_seconds, row.round_seconds, row.cpu_seconds) == (1.5, 2.75, None)
    assert (row.gpu_percent, row.temperature_c, row.power_mw) == (None, 54.5, 4510.0)
    assert (row.accuracy, row.test_examples) == (0.5, 10)
    assert poller.validated(poller.rounds["1"]) and poller.rounds["1"].expected == 2


def test_accuracy_counts_examples_not_clients(fedn):
    rows, _ = rows_of(fedn)
    assert weighted_mean(rows["1"].values(), "accuracy") == pytest.approx((0.5 * 10 + 1.0 * 30) / 40)
    assert weighted_mean([Row(None, "1", "c")], "accuracy") is None


def test_the_next_rounds_settings_say_what_the_server_did(fedn):
    previous = {"round": 1, "merged": ["id-a"], "skipped": {"id-b": "has values that are not finite"}, "staleness": {}}
    fedn.answers["rounds/"].append(fedn.round("2", "m1", {"round": 2, "warmup": False, "previous": previous}))
    rows, _ = rows_of(fedn, polls=2)
    assert rows["1"]["a"].outcome_text() == "merged"
    assert rows["1"]["b"].outcome_text() == "skipped: has values that are not finite"


@pytest.mark.parametrize(
    ("digests", "outcome"),
    [
        ((0xABCDEF012345, 0xABCDEF012345), "skipped: nothing was merged in this round"),
        ((0xABCDEF012345, 1), "sent"),  # one client may lie
        ((1, 1), "sent"),
        ((None, None), "sent"),
    ],
)
def test_a_last_round_that_made_no_other_model_merged_nothing(fedn, digests, outcome):
    settings = {"round": 1, "warmup": True, "previous": {}, "base": "abcdef0123456789abcdef0123456789"}
    fedn.answers["rounds/"] = [fedn.round("1", "m0", settings)]
    fedn.validations[:] = [
        fedn.validation("m1", name, 0.5, 10, model_digest=digest) for name, digest in zip("ab", digests, strict=True)
    ]
    rows, _ = rows_of(fedn)
    assert {row.outcome_text() for row in rows["1"].values()} == {outcome}


def test_an_update_of_a_client_that_fedn_does_not_have_is_no_row(fedn):
    fedn.updates.append(fedn.update("made-up"))
    fedn.validations.append(fedn.validation("m1", "made-up", 0.0, 1000))
    rows, poller = rows_of(fedn)
    assert set(rows["1"]) == {"a", "b"}
    assert poller.rounds["1"].unregistered == {"id-made-up"} and poller.rounds["1"].validations == {}


def test_a_client_that_joined_later_and_only_validates_is_one(fedn):
    poller = SessionPoller(fedn, "s")
    poller.poll()
    fedn.clients.add("id-late")
    fedn.validations.append(fedn.validation("m1", "late", 0.5, 10))
    poller.poll()
    assert poller.rounds["1"].validations == {"id-late": 100}


def test_a_merged_update_of_a_client_that_was_removed_from_fedn_is_a_row(fedn):
    fedn.clients = set()
    previous = {"round": 1, "merged": ["id-a"], "skipped": {}, "staleness": {}}
    fedn.answers["rounds/"].append(fedn.round("2", "m1", {"round": 2, "warmup": False, "previous": previous}))
    rows, _ = rows_of(fedn)
    assert set(rows["1"]) == {"a"}


def test_a_session_that_ended_long_ago_is_found_below_the_rounds_of_later_ones(fedn):
    """In one look, as a report takes it; rounds of sessions before it are not asked for."""

    def dated(raw, minute, session="s"):
        raw["round_config"]["session_id"] = session
        began, ended = (f"Sat, 21 Nov 2026 10:{minute:02d}:{second:02d} GMT" for second in (0, 42))
        return raw | {"committed_at": began, "updated_at": ended}

    previous = {"round": 1, "merged": ["id-a"], "skipped": {"id-b": "too late"}, "staleness": {}}
    second = {"round": 2, "warmup": False, "previous": previous}
    older = [dated(fedn.round(str(n), "m", {}), n, "older") for n in range(1, 10)]
    own = [dated(fedn.round("10", "m0", {"round": 1, "warmup": True, "previous": {}}), 10)]
    own += [dated(fedn.round("11", "m1", second), 11)]
    newer = [dated(fedn.round(str(n), "m", {"round": 1}), n, "newer") for n in range(12, 30)]
    asked = []
    get = fedn.get
    fedn.get = lambda path, **how: (asked.append(how.get("skip")) if path == "rounds/" else None, get(path, **how))[1]
    fedn.answers["rounds/"] = [*older, *own, *newer]
    fedn.answers["sessions/s"] = {"status": "Finished", "committed_at": "Sat, 21 Nov 2026 10:09:50 GMT"}
    fedn.updates[:] = [fedn.update("a", "10"), fedn.update("b", "10"), fedn.update("a", "11")]
    rows, poller = rows_of(fedn)
    assert {number: {name: row.outcome_text() for name, row in found.items()} for number, found in rows.items()} == {
        "10": {"a": "merged", "b": "skipped: too late"},
        "11": {"a": "sent"},
    }
    assert rows["10"]["a"].warmup is True and rows["11"]["a"].warmup is False
    assert [round_.seconds for round_ in poller.rounds.values()] == [42, 42]
    assert asked == [0, 4, 8, 12, 16, 20]


def test_a_device_that_trained_less_than_asked_says_why(fedn):
    words = "6 of the 14 layers asked for: memory 384.2 MB predicted,\x1b[31m 341.3 allowed"
    fedn.updates[:] = [fedn.update("a", limited=words, predicted_memory_mb=330.5), fedn.update("b")]
    poller = SessionPoller(fedn, "s")
    poller.poll()
    a, b = (poller.rounds["1"].rows[name] for name in ("a", "b"))
    assert a.limited == words.replace("\x1b", " ").replace(",  ", ", ") and b.limited is None
    assert (a.predicted_memory_mb, b.predicted_memory_mb) == (330.5, None)


def test_a_refusal_is_the_devices_word_and_a_failed_round_has_no_accuracy(fedn):
    fedn.answers["rounds/"] = [fedn.round("1", "m0", {}, status="Failed")]
    fedn.updates[1] = fedn.update("b", refused="no data", num_examples="0", layers=[], round=None)
    rows, poller = rows_of(fedn)
    assert rows["1"]["a"].outcome_text() == "round failed" and rows["1"]["a"].accuracy is None
    assert rows["1"]["b"].outcome_text() == "refused: no data"
    assert poller.rounds["1"].failed


HOSTILE = {
    "no JSON": "{",
    "a list": "[]",
    "no metadata": json.dumps({"sender": {"name": "x"}, "meta": "{}"}),
    "no round": json.dumps({"sender": {"name": "x"}, "meta": json.dumps({"config": "{}"})}),
    "a round that is none": json.dumps({"sender": {"name": "x"}, "meta": json.dumps({"config": '{"round_id": "x"}'})}),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_what_a_client_garbles_is_left_out(fedn, data):
    fedn.updates.insert(0, {"status": "Model update completed.", "data": data})
    for hostile in (data, json.dumps({"modelId": "m1", "sender": {"name": "x", "clientId": "id-a"}, "data": data})):
        fedn.validations.insert(0, {"status": "Model validation completed.", "data": hostile})
    rows, _ = rows_of(fedn)
    assert set(rows["1"]) == {"a", "b"} and rows["1"]["b"].accuracy == 1.0


def test_numbers_that_nobody_measured_are_not_believed(fedn):
    """They would break the sums, or the files that a report reads."""
    fedn.updates[0] = fedn.update("a", train_loss=10**400, trained_params=1e300, num_examples="9" * 30)
    deep = {"status": "Model validation completed.", "data": "[" * 100_000}
    fedn.validations[:] = [
        deep,
        fedn.validation("m1", "a", 50.0, 10**400),
        fedn.validation("m1", "b", 1.0, 30),
    ]
    sums = json.loads(json.loads(fedn.updates[1]["data"])["meta"])
    sums |= {"fetch_model": 9e14, "upload_model": 9e14}
    data = {"sender": {"name": "b", "clientId": "id-b"}, "meta": json.dumps(sums)}
    fedn.updates[1]["data"] = json.dumps(data)
    rows, _ = rows_of(fedn)
    row = rows["1"]["a"]
    assert (row.train_loss, row.trained_params, row.num_examples) == (None, None, None)
    assert rows["1"]["b"].round_seconds is None
    assert (row.accuracy, row.test_examples, rows["1"]["b"].accuracy) == (None, None, 1.0)


UNREADABLE = {"layers": {"layers": 5}, "count": {"num_examples": "9" * 5000}, "phases": {"resources": {"phases": [1]}}}


@pytest.mark.parametrize("changes", UNREADABLE.values(), ids=UNREADABLE)
def test_an_update_that_cannot_be_read_leaves_no_trace_for_the_next_round_to_trip_over(fedn, changes):
    fedn.updates.insert(0, fedn.update("x", **changes))
    previous = {"round": 1, "merged": ["id-x", "id-a"], "skipped": {}, "staleness": {}}
    fedn.answers["rounds/"].append(fedn.round("2", "m1", {"round": 2, "previous": previous}))
    rows, _ = rows_of(fedn, polls=2)
    assert set(rows["1"]) == {"a", "b"} and rows["1"]["a"].outcome_text() == "merged"


def test_what_a_client_says_cannot_drive_the_terminal_or_break_the_sums(fedn):
    fedn.clients.add("id-a\x1b[2J\nround 9")
    fedn.updates[0] = fedn.update("a\x1b[2J\nround 9", refused="\x1b[31mred\nround 3", download_bytes="much", layers=[])
    rows, poller = rows_of(fedn)
    (row,) = (row for row in rows["1"].values() if row.client != "b")
    assert "\x1b" not in row.client + row.outcome_text() and "\n" not in row.client + row.outcome_text()
    assert row.download_bytes is None
    assert summary(list(poller.rounds.values()), CASE)["upload_bytes"] == 420
    assert "\x1b" not in cost_table([row for round_ in poller.rounds.values() for row in round_.rows.values()])


def test_rounds_of_other_sessions_are_left_alone(fedn):
    other = fedn.round("7", "m9", {})
    other["round_config"]["session_id"] = "another"
    fedn.answers["rounds/"].append(other)
    rows, _ = rows_of(fedn)
    assert set(rows) == {"1"}


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_500_000, "2.5 MB"), (7_100_000_000, "7.1 GB")]
)
def test_bytes_in_words(count, words):
    assert size(count) == words


def test_a_network_that_was_away_for_many_rounds_costs_none_of_them(fedn):
    for number in range(2, 12):
        fedn.answers["rounds/"].append(fedn.round(str(number), f"m{number - 1}", {"round": number}))
        fedn.updates.append(fedn.update("a", fedn_round=str(number)))
    rows, poller = rows_of(fedn)
    assert len(poller.rounds) == len(rows) == 11
    assert all("a" in rows[str(number)] for number in range(1, 12))


def test_an_update_that_fedn_tells_of_before_its_round_is_kept(fedn):
    fedn.updates.append(fedn.update("a", fedn_round="2"))
    poller = SessionPoller(fedn, "s")
    poller.poll()
    assert "2" not in poller.rounds
    fedn.answers["rounds/"].append(fedn.round("2", "m1", {"round": 2}))
    poller.poll()
    assert set(poller.rounds["2"].rows) == {"a"}


def test_two_devices_of_one_name_have_a_row_each(fedn):
    twin = fedn.update("a")
    data = json.loads(twin["data"])
    data["sender"]["clientId"] = "other-id-of-a"
    fedn.updates.append({**twin, "data": json.dumps(data)})
    fedn.clients.add("other-id-of-a")
    rows, _ = rows_of(fedn)
    assert set(rows["1"]) == {"a", "b", "a (other-id)"}


def test_two_devices_of_one_name_have_their_own_accuracy_and_their_own_row_in_every_round(fedn):
    def of(client_id, status):
        data = json.loads(status["data"])
        data["sender"]["clientId"] = client_id
        return {**status, "data": json.dumps(data)}

    fedn.answers["rounds/"].append(fedn.round("2", "m1", {"round": 2}))
    first = [of("one", fedn.update("a")), of("two", fedn.update("a"))]
    second = [of("two", fedn.update("a", "2")), of("one", fedn.update("a", "2"))]  # in another order
    fedn.updates[:] = first + second
    fedn.clients |= {"one", "two"}
    fedn.validations[:] = [
        of("two", fedn.validation("m1", "a", 0.25, 10)),
        of("one", fedn.validation("m1", "a", 1, 30)),
    ]
    rows, poller = rows_of(fedn)
    assert {name: row.accuracy for name, row in rows["1"].items()} == {"a": 1, "a (two)": 0.25}
    assert poller.rounds["2"].ids == {"one": "a", "two": "a (two)"}


def test_a_device_that_was_started_again_with_a_new_id_keeps_its_name(fedn):
    fedn.answers["rounds/"].append(fedn.round("2", "m1", {"round": 2}))
    status = fedn.update("a", "2")
    fedn.updates.append({**status, "data": status["data"].replace("id-a", "id-new")})
    rows, _ = rows_of(fedn)
    assert set(rows["2"]) == {"a"}


def test_a_round_that_the_hooks_merged_and_fedn_failed_merged_nothing(fedn):
    fedn.answers["rounds/"] = [
        fedn.round("1", "m0", {"round": 1}, status="Failed"),
        fedn.round("2", "m0", {"round": 2, "previous": {"round": 1, "merged": ["id-a"], "skipped": {"id-b": "x"}}}),
    ]
    rows, _ = rows_of(fedn)
    assert [row.outcome_text() for row in rows["1"].values()] == ["round failed", "skipped: x"]


def test_an_update_belongs_to_the_round_in_which_fedn_asked_for_it_whatever_it_says(fedn):
    fedn.updates[:] = [fedn.update("a", round=7), fedn.update("a", train_loss=9.0), fedn.update("b")]
    rows, _ = rows_of(fedn, polls=2)
    assert rows["1"]["a"].round == 1 and rows["1"]["a"].train_loss == 0.5  # and its first one counts


def test_late_updates_are_not_called_merged(fedn):
    previous = {"round": 1, "merged": ["id-a"], "skipped": {}, "late": {}, "notes": ["one\x1b[2J note"]}
    second = {"round": 2, "previous": previous}
    third = {"round": 3, "previous": {"round": 2, "merged": ["id-a", "id-b"], "skipped": {}, "late": {"id-b": 1}}}
    fedn.answers["rounds/"] += [fedn.round("2", "m1", second), fedn.round("3", "m2", third)]
    fedn.updates.extend([fedn.update("a", "2"), fedn.update("b", "2"), fedn.update("c")])
    rows, poller = rows_of(fedn)
    assert [row.outcome_text() for row in rows["1"].values()] == [
        "merged",
        "skipped: late, arrived in round 2",
        "skipped: not merged, see the notes on this round",
    ]
    assert [row.outcome_text() for row in rows["2"].values()] == ["merged", "merged"]
    assert list(poller.notes()) == [(1, "one [2J note")]


def test_a_later_and_shorter_report_on_a_round_takes_nothing_back(fedn):
    """Round 2 failed, so that the settings of round 3 report on round 1 once more."""
    full = {"round": 1, "merged": ["id-a"], "skipped": {"id-b": "x"}, "late": {}, "notes": ["first"]}
    for number, previous in (("2", full), ("3", {"round": 1}), ("4", {"round": 1, "notes": ["second"]})):
        fedn.answers["rounds/"].append(fedn.round(number, "m1", {"round": int(number), "previous": previous}))
    rows, poller = rows_of(fedn, polls=2)
    assert [row.outcome_text() for row in rows["1"].values()] == ["merged", "skipped: x"]
    assert list(poller.notes()) == [(1, "first"), (1, "second")]


def test_who_is_online_is_read_when_a_round_begins_or_ends_and_else_every_5_seconds(fedn, monkeypatch):
    now, asked = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    get = fedn.get
    fedn.get = lambda path, **how: (
        asked.append(now[0]) if "status" in how.get("params", ()) and path == "clients/" else None,
        get(path, **how),
    )[1]
    poller = SessionPoller(fedn, "s")
    for second in range(12):
        now[0] = second
        if second == 7:
            fedn.answers["rounds/"].append(fedn.round("2", "m1", {"round": 2}, status="Pending"))
        poller.poll()
    assert asked == [0, 5, 7]
    assert poller.rounds["2"].online == {"id-a": "a", "id-b": "b"}


def test_a_round_is_not_complete_before_all_updates_that_the_combiner_had_are_known(fedn):
    fedn.answers["rounds/"][0]["combiners"][0]["data"]["aggregation_time"] = {"nr_aggregated_models": 3}
    _, poller = rows_of(fedn)
    assert not poller.validated(poller.rounds["1"])
    fedn.updates.append(fedn.update("c"))
    fedn.validations.append(fedn.validation("m1", "c", 1.0, 30))
    poller.poll()
    assert poller.validated(poller.rounds["1"])


def test_what_clients_download_only_to_validate_is_counted(fedn):
    fedn.validations.extend(fedn.validation("m1", name, 0.1, 10) for name in "xyz")
    _, poller = rows_of(fedn)
    round_ = poller.rounds["1"]
    assert round_.validations == {"id-x": 100, "id-y": 100, "id-z": 100}
    assert weighted_mean(round_.rows.values(), "accuracy") == pytest.approx((0.5 * 10 + 1.0 * 30) / 40)


def test_a_device_that_refused_is_not_waited_for(fedn):
    fedn.updates[1] = fedn.update("b", refused="no data", layers=[])
    del fedn.validations[1]
    _, poller = rows_of(fedn)
    assert poller.validated(poller.rounds["1"])


def test_what_keeps_a_session_from_being_a_success_is_named(fedn):
    _, poller = rows_of(fedn)
    rounds = list(poller.rounds.values())
    assert summary(rounds, CASE)["problem"] is None
    longer = parse(Case, {"name": "c", "model": {}, "selection": {}, "session": {"rounds": 3}}, "test")
    assert summary(rounds, longer)["problem"] == "it ended after 1 of 3 rounds"
    for row in rounds[0].rows.values():
        row.layers = []
    assert summary(rounds, CASE)["problem"] == "no client trained in its last round"
    rounds[0].status = "Failed"
    assert summary(rounds, CASE)["problem"] == "its last round failed"


@pytest.mark.parametrize(
    ("value", "signed", "read"), [(-1, False, None), (-1, True, -1), (2, False, 2), (1e16, True, None)]
)
def test_a_number_that_nothing_measured_can_have_is_unknown(value, signed, read):
    assert poller_module._number(value, signed) == read
