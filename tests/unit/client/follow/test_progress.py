"""Following a session: what its operator is shown while it goes on, and what is written."""

import itertools
import json
import socket
import time

import pytest
from fedn_servers.fake_controller import Fedn
from reports.run_folders import outcome_of

from fedn_partial.client.fedn_api.api import Api, ApiError
from fedn_partial.client.follow import progress
from fedn_partial.client.follow.poller import SessionPoller
from fedn_partial.client.records.run_folder import RunFolder
from fedn_partial.errors import FednPartialError
from fedn_partial.settings.case import Case
from fedn_partial.settings.schema import parse

DOWN = "no FEDn controller answers at http://there; is it up?"


def make_case(**session):
    raw = {"name": "c", "model": {}, "selection": {}, "session": {"rounds": 1, "round_timeout": 40, **session}}
    return parse(Case, raw, "test")


class Followed:
    """Follows the session of a fake controller; step k of `script` is called before look k, a look takes a second."""

    def __init__(self, monkeypatch, folder, fedn, script, **session):
        self.fedn, self.events, self.seconds = fedn, [], 0.0
        steps = itertools.chain(script, itertools.repeat(lambda: None))

        def sleep(seconds):
            self.seconds += seconds
            next(steps)()

        monkeypatch.setattr("time.sleep", sleep)
        monkeypatch.setattr("time.monotonic", lambda: 1000 + self.seconds)
        self.folder = RunFolder(folder / "run", make_case(**session))
        self.poller = SessionPoller(fedn, "s")

    def run(self):
        return progress.follow(self.poller, self.folder.case, [], self.folder, on_event=self.events.append)

    def texts(self, kind):
        return [event["text"] for event in self.events if event["event"] == kind]

    def problems(self, number):
        return next(event["problems"] for event in self.events if event.get("round") == number)

    def rows(self):
        lines = (self.folder.path / "rounds.jsonl").read_text().splitlines()
        return {(row["round"], row["client"]): outcome_of(row) for row in map(json.loads, lines)}

    def session(self):
        return json.loads((self.folder.path / "session.json").read_text())


@pytest.fixture
def fedn():
    return Fedn()


@pytest.fixture
def follow(monkeypatch, tmp_path, fedn):
    return lambda script=(), **session: Followed(monkeypatch, tmp_path, fedn, script, **session)


def ends(fedn, status="Finished"):
    return lambda: fedn.answers["sessions/s"].update(status=status)


def running(fedn, number="1", model="m0"):
    """A round that goes on: FEDn says nothing of its clients yet."""
    raw = fedn.round(number, model, {}, status="Pending")
    return {**raw, "combiners": []}


def test_a_client_that_does_not_answer_is_named_with_what_is_known_of_it(fedn, follow):
    """Client c took part in round 1, is silent in round 2, and offline at its end; d is online and silent."""
    first = fedn.round("1", "m0", {"round": 1})
    fedn.answers["rounds/"] = [first]
    for name in "cd":
        fedn.answers["clients/"].append({"client_id": f"id-{name}", "name": name})
    fedn.updates.append(fedn.update("c"))
    fedn.validations.append(fedn.validation("m1", "c", 1.0, 10))

    def over():
        del fedn.answers["clients/"][2]
        second = fedn.round("2", "m1", {"round": 2, "previous": {"round": 1}})
        second["combiners"][0]["data"]["nr_expected_updates"] = 4
        fedn.answers["rounds/"][1] = second
        fedn.updates.extend([fedn.update("a", "2"), fedn.update("b", "2")])

    script = [lambda: fedn.answers["rounds/"].append(running(fedn, "2", "m1")), *[lambda: None] * 20, over, ends(fedn)]
    followed = follow(script, rounds=2)
    followed.run()
    assert followed.problems(2) == [
        "c  no answer after 21 s (offline; last seen in round 1)",
        "d  no answer after 21 s",
    ]
    assert followed.problems(1) == [] and followed.texts("network") == []


def test_a_client_that_does_not_answer_is_named_while_the_round_runs(fedn, follow, monkeypatch, capsys):
    """In the line that a terminal shows; a went away in the middle of round 2."""
    fedn.answers["rounds/"].append(running(fedn, "2", "m1"))
    fedn.updates.append(fedn.update("b", "2"))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def over():
        fedn.answers["rounds/"][1] = fedn.round("2", "m1", {"round": 2})

    wait = [lambda: None] * 9
    follow([*wait, lambda: fedn.answers["clients/"].pop(0), *wait, over, ends(fedn)], rounds=2).run()
    shown = [text for text in capsys.readouterr().out.split("\r") if "round running: 1 updates so far, " in text]
    assert shown[5].endswith(" s, waiting for a (last seen in round 1)")
    assert shown[-1].endswith(" s, waiting for a (offline; last seen in round 1)")


def test_where_fedn_does_not_say_whom_it_asked_nobody_is_accused(fedn, follow):
    for name in "cde":
        fedn.answers["clients/"].append({"client_id": f"id-{name}", "name": name})
    fedn.answers["rounds/"][0]["combiners"][0]["data"]["nr_expected_updates"] = 3
    done, fedn.answers["rounds/"] = fedn.answers["rounds/"], [running(fedn)]
    followed = follow([lambda: fedn.answers.update({"rounds/": done}), ends(fedn)], clients_per_round=3)
    followed.run()
    assert followed.problems(1) == ["1 client  no answer after 1 s, of these: c, d, e"]


def test_too_few_clients_are_the_reason_why_a_round_failed(fedn, follow, capsys):
    fedn.answers["rounds/"] = [{**running(fedn), "status": "Failed"}]
    fedn.updates.clear()
    followed = follow([ends(fedn)], min_clients=3)
    followed.run()
    assert followed.problems(None) == ["too few clients were online: 2, the session needs min_clients=3"]
    assert "round 1 of FEDn  FAILED, the global model stays as it was\n" in capsys.readouterr().out


def test_an_unreachable_controller_is_said_at_once_and_when_it_answers_again(fedn, follow):
    get = fedn.get

    def down():
        def fail(*args, **kwargs):
            raise ApiError(DOWN)

        fedn.get = fail

    def up():
        fedn.get = get

    followed = follow([down, *[lambda: None] * 4, up, ends(fedn)])
    assert followed.run()["problem"] is None
    assert followed.texts("network") == [f"{DOWN} Trying again every 1 s", "FEDn answers again, after 5 s"]


def test_silence_is_explained_after_the_rounds_timeout_and_ends_the_following_later(fedn, follow):
    fedn.answers["rounds/"] = [running(fedn)]
    del fedn.updates[1]
    followed = follow([lambda: fedn.answers["clients/"].pop()], min_clients=2)
    reason = "waiting for b (offline); clients online: 1, the session needs min_clients=2"
    with pytest.raises(FednPartialError, match="no progress for 3 min") as raised:
        followed.run()
    assert followed.texts("network") == [f"no progress for 41 s: {reason}"]
    assert reason in str(raised.value) and "Start the session again" in str(raised.value)
    assert followed.session()["final"]["problem"] == str(raised.value)


@pytest.mark.parametrize("status", ["Pending", "Terminated"])
def test_a_session_that_fedn_terminated_ends_with_what_to_do(fedn, follow, status):
    """Also in mid-round, of which FEDn says that it was terminated, or nothing any more."""
    second = {**running(fedn, "2", "m1"), "status": status}
    followed = follow([lambda: fedn.answers["rounds/"].append(second), ends(fedn, "Terminated")])
    followed.folder.case = make_case(rounds=5)
    final = progress.follow(followed.poller, followed.folder.case, [], followed.folder)
    assert final["problem"] == (
        "FEDn terminated it after 1 of 5 rounds; start the session again: it goes on from the newest model"
    )
    assert followed.seconds < 15


def test_a_round_that_fedn_gave_up_does_not_hold_up_the_ones_after_it(fedn, follow):
    given_up, second = running(fedn, "1"), fedn.round("2", "m0", {"round": 2})
    fedn.answers["rounds/"] = [given_up, second]
    fedn.updates[:] = [fedn.update(name, "2") for name in "ab"]
    followed = follow([ends(fedn)], rounds=2)
    assert followed.run()["problem"] == "it ended after 1 of 2 rounds"
    assert set(followed.rows()) == {(2, "a"), (2, "b")}


def test_what_the_server_functions_say_of_a_round_is_shown_when_it_comes_and_kept(fedn, follow):
    """A skipped update, a note on the round, and an update of round 1 that came in round 2, two rounds later."""
    notes = ["the hooks process was restarted"]
    reports = [
        {"round": 1, "merged": ["id-a"], "skipped": {"id-b": "is not finite"}, "late": {}, "notes": notes},
        {"round": 2, "merged": ["id-a", "id-b"], "skipped": {}, "late": {"id-c": 1}, "notes": []},
        {"round": 3, "merged": ["id-a", "id-b"], "skipped": {}, "late": {}, "notes": []},
    ]

    def round_(number):
        def begin():
            settings = {"round": number, "previous": reports[number - 2]}
            fedn.answers["rounds/"].append(fedn.round(str(number), f"m{number - 1}", settings))
            fedn.updates.extend(fedn.update(name, str(number)) for name in "ab")
            if number == 3:
                fedn.updates.append(fedn.update("c"))

        return begin

    followed = follow([round_(2), round_(3), round_(4), ends(fedn)], rounds=4)
    followed.run()
    assert followed.texts("problem") == ["b skipped: is not finite", "c skipped: late, arrived in round 2"]
    assert followed.texts("note") == notes
    assert followed.session()["notes"] == [{"round": 1, "text": notes[0]}]
    rows = followed.rows()
    assert rows[1, "b"] == "skipped: is not finite" and rows[1, "c"] == "skipped: late, arrived in round 2"
    assert len(rows) == 9 and rows[2, "b"] == "merged" and rows[4, "a"] == "sent"


def test_a_row_that_comes_after_its_round_was_written_is_written_too(fedn, follow):
    def round_(number):
        def begin():
            fedn.answers["rounds/"].append(fedn.round(str(number), f"m{number - 1}", {"round": number}))
            fedn.updates.append(fedn.update("a", str(number)))
            fedn.validations.append(fedn.validation(f"m{number}", "a", 0.5, 10))

        return begin

    script = [round_(2), round_(3), round_(4), lambda: fedn.updates.append(fedn.update("slow")), ends(fedn)]
    followed = follow(script, rounds=4)
    followed.run()
    assert set(followed.rows()) == {(1, "a"), (1, "b"), (1, "slow"), (2, "a"), (3, "a"), (4, "a")}


def test_a_thousand_refused_updates_do_not_fill_the_screen(fedn, follow):
    fedn.updates.extend(fedn.update(f"x{number}", refused="no data") for number in range(1000))
    fedn.clients |= {f"id-x{number}" for number in range(1000)}
    followed = follow([ends(fedn)])
    followed.run()
    problems = followed.problems(1)
    assert len(problems) == 21 and problems[-1] == "and 980 more, see rounds.jsonl"


def test_downloads_of_clients_that_only_validated_are_counted_and_named(fedn, follow):
    fedn.validations.extend(fedn.validation("m1", name, 0.1, 10) for name in "xyz")
    followed = follow([ends(fedn)], clients_per_round=2)
    final = followed.run()
    (event,) = [event for event in followed.events if event["event"] == "round"]
    assert (event["download_bytes"], event["validation_bytes"], event["only_validated"]) == (2300, 300, 3)
    assert "down 2.3 kB (300 B by 3 clients that only validated)" in progress.round_line(event)
    assert (final["download_bytes"], final["validation_bytes"]) == (2300, 300)
    assert final["validations"] == {event["fedn_round"]: 300}


def test_a_controller_that_takes_the_question_and_does_not_answer_is_not_waited_for_long(monkeypatch):
    monkeypatch.setattr("fedn_partial.client.fedn_api.api.READ_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        with pytest.raises(ApiError, match="no FEDn controller answers"):
            Api(f"http://127.0.0.1:{server.getsockname()[1]}").get("rounds/")
        assert time.monotonic() - began < 5
