"""Partitions: each example once, the requested skew, and refusals."""

import numpy as np
import pytest

from fedn_partial.client.data import partition
from fedn_partial.errors import DataError
from fedn_partial.settings.case import Data, parse_partition
from fedn_partial.settings.schema import SettingsError, parse


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("iid", ("iid", None)),
        ("natural", ("natural", None)),
        ("dirichlet:0.3", ("dirichlet", 0.3)),
        ("dirichlet:5", ("dirichlet", 5)),
    ],
)
def test_partitions_that_there_are(text, parsed):
    assert parse_partition(text) == parsed
    assert parse(Data, {"partition": text}, "case.yaml: data").partition == text


@pytest.mark.parametrize(
    "text", ["", "IID", "iid:1", "natural:", "dirichlet", "dirichlet:", "dirichlet:0", "dirichlet:-1", "dirichlet:nan"]
)
def test_other_partitions_are_refused_with_what_is_allowed(text):
    with pytest.raises(SettingsError, match=r"case.yaml: data: partition must be iid, natural, or dirichlet:ALPHA"):
        parse(Data, {"partition": text}, "case.yaml: data")


def counts(y, parts):
    return np.array([np.bincount(y[part], minlength=y.max() + 1) for part in parts])


def test_dirichlet_deals_every_example_once():
    y = np.repeat(np.arange(10), 300)
    parts = partition.dirichlet(y, 7, 0.3, np.random.default_rng(1))
    assert sorted(np.concatenate(parts).tolist()) == list(range(3000))
    assert min(map(len, parts)) >= partition.MINIMUM


def test_dirichlet_shares_have_the_variance_of_the_distribution():
    """A share of a symmetric Dirichlet distribution over K clients has the variance (1/K)(1-1/K)/(K alpha + 1)."""
    clients, alpha, per_class = 5, 0.5, 1000
    y = np.repeat(np.arange(400), per_class)
    shares = counts(y, partition.dirichlet(y, clients, alpha, np.random.default_rng(3))) / per_class
    expected = (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
    np.testing.assert_allclose(shares.mean(axis=1), 1 / clients, rtol=0.15)
    assert shares.var() == pytest.approx(expected, rel=0.1)


def test_a_large_alpha_comes_near_to_equal_parts():
    y = np.repeat(np.arange(3), 1000)
    np.testing.assert_allclose(counts(y, partition.dirichlet(y, 4, 1e5, np.random.default_rng(1))), 250, atol=6)


def test_a_small_alpha_leaves_most_classes_to_one_client():
    y = np.repeat(np.arange(30), 100)
    parts = counts(y, partition.dirichlet(y, 3, 0.02, np.random.default_rng(1)))
    assert (parts.max(axis=0) > 95).sum() >= 25


def test_dirichlet_clients_have_their_classes_mixed():
    y = np.repeat([0, 1], 500)
    for part in partition.dirichlet(y, 2, 10, np.random.default_rng(1)):
        assert 0.2 < y[part[: len(part) // 2]].mean() < 0.8


def test_dirichlet_gives_up_where_a_client_would_be_left_with_too_little():
    with pytest.raises(DataError, match=r"dirichlet:0.001: none of 1000 draws of 400 examples .* 10;"):
        partition.dirichlet(np.zeros(400, int), 4, 0.001, np.random.default_rng(1))


def test_a_thousand_clients_get_a_tenth_of_an_even_share_at_least():
    y = np.repeat(np.arange(10), 5000)
    parts = partition.dirichlet(y, 1000, 0.3, np.random.default_rng(1))
    assert sum(map(len, parts)) == 50_000 and min(map(len, parts)) >= 5


@pytest.mark.parametrize(
    ("sizes", "clients", "groups"),
    [
        ([5, 6, 7], 3, [[0], [1], [2]]),
        ([10, 40, 20, 25], 2, [[0, 1], [2, 3]]),
        ([1, 1, 1, 1, 1, 1], 3, [[0, 3], [1, 4], [2, 5]]),
        ([9, 2, 3, 4], 2, [[0], [1, 2, 3]]),
    ],
)
def test_owners_are_grouped_evenly(sizes, clients, groups):
    assert partition.natural(sizes, clients) == groups


def test_more_clients_than_owners_are_refused():
    with pytest.raises(DataError, match="4 clients are more than the 3 owners"):
        partition.natural([5, 6, 7], 4)


def test_fewer_examples_than_clients_are_refused_at_once():
    for make in (partition.iid, lambda n, clients, random: partition.dirichlet(np.zeros(n, int), clients, 0.3, random)):
        with pytest.raises(DataError, match=r"^4 examples are too few for 5 clients$"):
            make(4, 5, np.random.default_rng(1))
