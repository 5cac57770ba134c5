"""The charts of experiments: every kind, from made-up results."""

import xml.etree.ElementTree as ElementTree

import pytest
from reports.made_up_results import made_up_of_every_experiment

from fedn_partial.client.charts.experiments import experiment_chart
from fedn_partial.client.experiments import definitions

NAMES = definitions.names()


@pytest.fixture(scope="module")
def all_results():
    return made_up_of_every_experiment()


@pytest.mark.parametrize("name", NAMES)
def test_every_chart_is_small_light_and_says_what_is_in_it(all_results, name):
    experiment = definitions.load(name, small=True)
    svg = experiment_chart(experiment, all_results)
    root = ElementTree.fromstring(svg)
    words = " ".join(text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text"))
    labels = {cell.column or cell.label for cell in experiment.cells if cell is not experiment.ceiling_cell}
    assert all(label in words for label in labels)
    assert "#0001" not in svg and "var(" not in svg and "#ffffff" in svg
    assert len(svg) < 200_000
    assert float(root.get("width").removesuffix("pt")) / 72 * 96 <= 700
    assert svg == experiment_chart(experiment, all_results)


def test_there_is_no_chart_of_nothing_and_one_of_what_there_is(all_results):
    experiment = definitions.load("fig1", small=True)
    assert experiment_chart(experiment, {}) is None
    run = experiment.cells[2].runs[0]
    assert "10 layers" in experiment_chart(experiment, {run.digest: all_results[run.digest]})
