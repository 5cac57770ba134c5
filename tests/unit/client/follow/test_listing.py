"""Reading a list of FEDn while rows come in that are dated before those that were read."""

import random

import pytest

from fedn_partial.client.follow.listing import Listing


class Rows:
    """FEDn's list of statuses: sorted by date on every request; dates are given before rows are inserted."""

    def __init__(self):
        self.rows = []
        self.read = 0

    def insert(self, date):
        self.rows.append({"status_id": f"id-{date}", "committed_at": date})

    def get(self, path, params=None, limit=None, order=None, skip=0):
        found = sorted(self.rows, key=lambda row: row["committed_at"], reverse=order == "desc")
        page = found[skip : skip + (limit or len(found))]
        self.read += len(page)
        return {"count": len(self.rows), "result": page}


def listing(rows):
    return Listing(rows, "statuses/", {}, "status_id")


@pytest.mark.parametrize("lateness", [0, 5, 300])
def test_every_row_is_returned_once_however_late_it_is_inserted(lateness):
    rows, draw = Rows(), random.Random(lateness)
    statuses = listing(rows)
    seen = []
    for date in sorted(range(1000), key=lambda date: date + draw.uniform(0, lateness)):
        rows.insert(date)
        if draw.random() < 0.1:
            seen += statuses.new()
    seen += statuses.new()
    assert sorted(row["committed_at"] for row in seen) == list(range(1000))


def test_rows_that_come_while_it_reads_are_not_lost():
    """Also those between its requests: at the latest the next look finds them."""
    rows = Rows()
    for date in range(0, 1000, 2):
        rows.insert(date)
    get, late = rows.get, iter(range(1, 1000, 2))

    def slow(*args, **kwargs):
        answer = get(*args, **kwargs)
        for date in [next(late, None) for _ in range(50)]:
            if date is not None:
                rows.insert(date)
        return answer

    rows.get = slow
    statuses = listing(rows)
    seen = [row for _ in range(12) for row in statuses.new()]
    assert sorted(row["committed_at"] for row in seen) == list(range(1000))


def test_rows_are_returned_by_their_date():
    rows = Rows()
    for date in (3, 1, 500, 2):
        rows.insert(date)
    assert [row["committed_at"] for row in listing(rows).new()] == [1, 2, 3, 500]


def test_a_look_at_a_long_list_without_news_reads_one_row():
    rows = Rows()
    for date in range(5000):
        rows.insert(date)
    statuses = listing(rows)
    assert len(statuses.new()) == 5000
    rows.read = 0
    assert statuses.new() == [] and rows.read == 1
    rows.insert(4999.5)
    assert len(statuses.new()) == 1 and rows.read < 50
