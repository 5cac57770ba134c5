"""What became of an update, by the server functions' reports on the rounds."""

import pytest

from fedn_partial.client.follow.outcomes import outcome
from fedn_partial.client.records.outcome import describe


def text_of(*arguments):
    result = outcome(*arguments)
    return result and describe(*result)


def report(number, **keys):
    return {number: {"round": number, "merged": [], "skipped": {}, "late": {}, "notes": [], **keys}}


def test_what_the_report_of_its_round_says():
    reports = report(3, merged=["a", "c"], skipped={"b": "has values that are not finite", "c": "is a second update"})
    assert text_of("a", 3, reports) == "merged"
    assert text_of("b", 3, reports) == "skipped: has values that are not finite"
    assert text_of("c", 3, reports) == "merged"
    assert text_of("a", 4, reports) is None and text_of("d", None, reports) is None


def test_an_update_that_came_in_a_later_round_is_called_late():
    reports = report(3, merged=["a"]) | report(4, merged=["a", "b"], late={"b": 3}) | report(5, late={"a": 4})
    assert text_of("b", 3, reports) == "skipped: late, arrived in round 4"
    assert text_of("b", 4, reports) == "merged"
    assert text_of("a", 4, reports) == "merged"  # its second update was late


def test_an_update_that_is_in_no_report_came_after_the_round():
    assert text_of("b", 3, report(3, merged=["a"])) == "skipped: late, arrived after the end of the round"


def test_where_a_report_does_not_hold_all_updates_nothing_is_guessed():
    reports = report(3, notes=["the hooks process was restarted; what it had merged before is lost"])
    assert text_of("b", 3, reports) == "skipped: not merged, see the notes on this round"
    assert text_of("b", 3, {3: {"round": 3}}) is None  # too large to be sent


@pytest.mark.parametrize("late", [{}, {"late": {}}])
def test_reports_of_the_version_before_have_fewer_keys(late):
    reports = {3: {"round": 3, "merged": ["a"], "skipped": {"b": "too late"}, **late}}
    assert [text_of(id, 3, reports) for id in "ab"] == ["merged", "skipped: too late"]
