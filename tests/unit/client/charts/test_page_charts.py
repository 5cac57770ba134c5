"""The charts of a page: lines, bars and heat maps."""

import re
import xml.etree.ElementTree as ET

import pytest

from fedn_partial.client.charts import style
from fedn_partial.client.charts.bars import Bar, bar_chart
from fedn_partial.client.charts.heat_maps import HeatMap, heat_map, joined, level
from fedn_partial.client.charts.lines import LineAxes, Series, line_chart


def svg(text):
    return ET.fromstring(text), [node.text for node in ET.fromstring(text).iter("{http://www.w3.org/2000/svg}text")]


def test_a_line_chart_leaves_gaps_where_nothing_is_known_and_has_the_pages_colours():
    series = Series(1, (1, 2, 3, 4, 5), (10, 20, None, 40, 50), crosses=(3,))
    text = line_chart("accuracy", 'a "title" <b>', [series], LineAxes("accuracy, %", band=(1, 2, "warm-up")))
    root, words_in_it = svg(text)
    assert root.get("aria-label") == 'a "title" <b>' and root.get("role") == "img"
    assert {"accuracy, %", "warm-up", "round", "50"} <= set(words_in_it)
    assert "var(--s1)" in text and not re.search("#[0-9a-f]{6}", text)
    assert text.count("<use") >= 5  # four markers and a cross
    (line,) = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--s1\); stroke-width: 1.6', text)
    assert line.count("M") == 2  # a line before the gap, and one after it


def test_many_runs_can_be_told_apart():
    looks = [(style.colour(number), style.marker(number), style.dash(number)) for number in range(16)]
    assert len(set(looks)) == 16


def test_nothing_known_is_no_chart():
    assert line_chart("x", "x", [Series(0, (1, 2), (None, None), crosses=(1,))], LineAxes("x")) is None
    assert bar_chart("x", "x", [Bar("a", (None, 0.0))], ("p", "rest"), "s") is None
    assert heat_map("x", "x", HeatMap((), (), (), (), "round")) is None


def test_ids_of_two_charts_differ():
    ids = []
    for name in ("one", "two"):
        text = line_chart(name, "t", [Series(0, (1, 2), (1, 2))], LineAxes("y"))
        ids.append(set(re.findall(r'\bid="([^"]*)"', text)))
        used = set(re.findall(r'(?:href="#|url\(#)([^")]*)', text))
        assert used and used <= ids[-1]
    assert ids[0] and not ids[0] & ids[1]


def test_a_label_that_looks_like_our_marks_stays_as_it_is():
    label = '#000001 id="a" url(#b) $x$ <metadata>'
    _, texts = svg(bar_chart("x", "t", [Bar(label, (1.0, 2.0))], ("load", "rest"), "s"))
    assert label in texts and "3.0 s" in texts


def test_bars_are_as_long_as_what_they_stand_for():
    text = bar_chart("x", "t", [Bar("a", (1.0, 3.0)), Bar("b", (2.0, None))], ("load", "rest"), "s")
    shapes = re.findall(r'<path d="M ([\d.]+) [\d.]+\s+L ([\d.]+) [^"]*"[^>]*fill: var\(--p(\d)\)', text)
    widths = [(phase, float(right) - float(left)) for left, right, phase in shapes]
    unit = widths[0][1]
    assert [(phase, round(width / unit, 2)) for phase, width in widths] == [("0", 1), ("1", 3), ("0", 2)]


def test_a_heat_map_has_its_numbers_and_joins_what_is_too_much():
    few = HeatMap(("a", "b"), ("1", "2"), ((0, 3), (1, 2)), (3, 3), "round", ("stale",), (("4",), ("5",)))
    _, texts = svg(heat_map("x", "t", few))
    assert sorted(texts) == sorted(["a", "b", "1", "2", "3", "1", "2", "round", "stale", "4", "5"])  # 0 is left out
    many = HeatMap(("a",), tuple(map(str, range(1, 301))), ((1,) * 300,), (2,) * 300, "round")
    columns, counts, wholes = joined(many)
    assert (columns[:2], counts[0][0], wholes[0], len(columns)) == (("1", "4"), 3, 6, 100)
    assert len(heat_map("x", "t", many)) < 10_000  # equal neighbours are one shape


@pytest.mark.parametrize(
    ("count", "whole", "step"),
    [(0, 3, 0), (1, 3, 2), (3, 3, 5), (1, 1000, 1), (200, 1000, 1), (201, 1000, 2), (1, 0, 0)],
)
def test_the_steps_of_a_heat_maps_colour(count, whole, step):
    assert level(count, whole) == step
