"""Waiting for a condition."""

import time

import pytest

from fedn_partial.client.fleet.waiting import wait_until


def test_a_condition_that_becomes_true_ends_the_wait():
    results = iter([False, None, [], "yes"])
    assert wait_until(lambda: next(results), timeout=10, pause=0.01) is True
    assert next(results, "consumed") == "consumed"


def test_the_wait_ends_at_the_deadline():
    started, calls = time.monotonic(), []
    assert wait_until(lambda: calls.append(1), timeout=0.3, pause=0.1) is False
    assert 2 <= len(calls) <= 3 and time.monotonic() - started < 0.3


def test_an_error_of_the_condition_is_raised_at_once():
    calls = []

    def fail():
        calls.append(1)
        raise ValueError("ended")

    with pytest.raises(ValueError, match="ended"):
        wait_until(fail, timeout=10, pause=0.01)
    assert len(calls) == 1
