"""What went wrong in a run or profile: with which client, in which round, and why."""

import json

from reports.report_cases import LAYERS, ROWS, client, with_session
from reports.run_folders import write_profile, write_run

from fedn_partial.client.records.load import load, load_run
from fedn_partial.client.report.facts import facts, subtitle
from fedn_partial.client.report.page import write_report
from fedn_partial.client.report.problems import problem_lines, problems_table, spans


def problem_rows(run) -> list[tuple]:
    return list(problems_table([run], []).itertuples(index=False, name=None))


def test_what_went_wrong_with_whom_and_when(run):
    result = {tuple(row[1:]) for row in problem_rows(run)}
    assert result == {
        (3, "c1", "skipped", "too late"),
        (3, "c2", "refused", "memory 400.0 MB predicted"),
        (4, "all clients", "no answer", "no answer from any client in this round"),
        (5, "c1", "fewer layers", "1 of the 2 layers"),
        (5, "c2", "no answer", "no answer in this round"),
        (None, "1 of the 3 clients", "no answer", "no answer in any round"),
    }


def test_equal_problems_are_told_once(tmp_path):
    rows = [
        client(number, name, [], f"refused: memory {400 + number}.5 MB predicted")
        for number in (1, 2, 3, 5)
        for name in ("c1", "c2", "c3", "c4", "c5", "c6")
    ]
    run = load_run(write_run(tmp_path / "run", rows))
    refused, silent = problem_lines(problems_table([run], []))
    assert refused["clients"] == "c1, c2, c3, c4 and 2 more" and refused["rounds"] == "1-3, 5"
    assert refused["why"] == "memory 405.5 MB predicted" and refused["times"] == 24
    assert silent["rounds"] == "4"


def test_clients_that_the_case_has_and_the_data_have_not_are_not_missed(tmp_path):
    path = write_run(tmp_path / "run", ROWS[:2], layers=LAYERS, data={"name": "digits", "clients": 5})
    assert [row[2] for row in problem_rows(load_run(path))] == ["3 of the 5 clients"]
    session = json.loads((path / "session.json").read_text())
    (path / "session.json").write_text(json.dumps({**session, "data": {"name": "casa", "clients": 2}}))
    assert not problem_rows(load_run(path))


def test_clients_that_were_not_sampled_are_not_missing(tmp_path):
    rows = [client(1, "c1", ["a"]), client(1, "c2", ["a"]), client(2, "c3", ["a"]), client(2, "c4", ["a"])]
    drawn = {"session": {"rounds": 3, "clients_per_round": 2}, "data": {"name": "digits", "clients": 5}}
    path = write_run(tmp_path / "run", rows, layers=LAYERS, **drawn)
    assert not problem_rows(load_run(path))
    write_report([path], tmp_path / "report.html")
    assert "No problems: no missing answer is known, and every update" in (tmp_path / "report.html").read_text()
    path = write_run(tmp_path / "other", [*rows, client(3, "c1", ["a"])], layers=LAYERS, **drawn)
    (row,) = problem_rows(load_run(path))
    assert row[1:4] == (3, "1 of the 2 clients sampled", "no answer")


def test_a_profile_tells_of_its_own_clients_data_not_of_the_cases(tmp_path):
    data = {"name": "digits", "clients": 5}
    path = write_profile(tmp_path / "p", [{"flavour": "f", "layers": 3, "run": "f-3"}], data=data)
    write_run(path / "f-3", ROWS[:1], layers=LAYERS, data=data)
    content = json.loads((path / "profile.json").read_text())
    (path / "profile.json").write_text(json.dumps({**content, "data": "made up at random"}))
    _, (profile,) = load([path])
    assert problems_table([], [profile]).empty
    about = facts(profile)
    assert about["Data"] == "made up at random" and "digits" not in subtitle(profile)


def test_the_objective_is_a_fact_if_there_is_one(tmp_path):
    path = write_profile(tmp_path / "p", [{"flavour": "f", "layers": 3, "run": "f-3"}])
    write_run(path / "f-3", ROWS[:1], layers=LAYERS)
    content = json.loads((path / "profile.json").read_text())
    for objective, fact in (
        ({"name": "proximal", "mu": 0.01}, "loss and proximal (mu 0.01)"),
        ({"name": "my_terms:Mine"}, "loss and my_terms:Mine"),
        (None, None),
    ):
        settings = {**(content.get("settings") or {}), "objective": objective}
        (path / "profile.json").write_text(json.dumps({**content, "settings": settings}))
        _, (profile,) = load([path])
        assert facts(profile).get("Objective") == fact


def problems(path) -> set[tuple]:
    return {tuple(row[1:]) for row in problem_rows(load_run(path))}


def test_what_the_server_functions_note_on_a_round_went_wrong_too(tmp_path):
    path = write_run(tmp_path / "run", ROWS[:2], layers=LAYERS, data={"name": "digits", "clients": 2})
    with_session(path, notes=[{"round": 1, "text": "2 updates of clients not asked"}, "damaged", {"round": "x"}])
    assert problems(path) == {(1, "the server", "note", "2 updates of clients not asked")}
    write_report([path], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Problems: the server: note. See" in page and "2 updates of clients not asked" in page


def test_spans():
    assert spans([3, 1, 4, 4, 9, 5]) == "1, 3-5, 9" and spans([]) == ""
