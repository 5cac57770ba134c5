"""Experiments: what their files make, which runs they share, and the figures that are counted from run folders."""

import json
import math
import os
import re
import statistics
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest
import yaml
from reports.run_folders import write_run

from fedn_partial.client.experiments import definitions, results, run, tables
from fedn_partial.client.experiments import statistics as spreads
from fedn_partial.client.records.load import load_run
from fedn_partial.client.records.run_folder import weighted_mean
from fedn_partial.client.simulation.workers import workers
from fedn_partial.errors import FednPartialError
from fedn_partial.seed_model.case_checks import check_case, check_fleet
from fedn_partial.settings.schema import SettingsError

BASE = {
    "case": {
        "model": {"name": "lstm_har"},
        "selection": {"selector": "uniform", "layers": 2},
        "session": {"rounds": 100},
        "data": {"name": "casa", "clients": 2},
    },
    "small": {"session.rounds": 4, "data.examples": 1000},
}
FILE = {
    "title": "A comparison",
    "kind": "curves",
    "base": "base-test.yaml",
    "seeds": [1, 2, 3],
    "ceiling": "all",
    "set": {"training.epochs": 2},
    "cells": [
        {"label": "all", "paper": "fig2a.6", "set": {"selection": {"selector": "all"}}},
        {"label": "two", "paper": "fig2a.2"},
    ],
}


def write_experiment(folder, **changes) -> Path:
    (folder / "base-test.yaml").write_text(yaml.safe_dump(BASE))
    path = folder / "comparison.yaml"
    path.write_text(yaml.safe_dump({**FILE, **changes}))
    return path


@pytest.mark.parametrize("small", [True, False], ids=["small", "full"])
@pytest.mark.parametrize("name", definitions.names())
def test_every_experiment_makes_cases_that_can_be_simulated(name, small):
    experiment = definitions.load(name, small)
    for one in experiment.runs:
        case = one.case()
        check_fleet(case)
        check_case(case)
        assert case.seed == one.seed
    assert all(len(cell.runs) >= 3 for cell in experiment.cells)
    assert experiment.slug == (f"{name}-small" if small else name)


def test_the_paper_has_an_experiment_for_each_of_its_accuracy_figures():
    assert {"fig1", "fig2a", "fig2b", "fig3", "fig4", "fig5", "fig6", "table3"} <= set(definitions.names())


def test_what_differs_is_put_over_the_base_and_sections_are_replaced_whole(tmp_path):
    path = write_experiment(tmp_path, small={"data.clients": 3})
    full, small = (definitions.read(path, size) for size in (False, True))
    assert full.cells[1].runs[0].settings == {**BASE["case"], "training": {"epochs": 2}, "seed": 1}
    assert full.cells[0].runs[2].settings["selection"] == {"selector": "all"}
    assert small.cells[1].runs[0].settings["session"] == {"rounds": 4}
    assert small.cells[1].runs[0].settings["data"] == {"name": "casa", "clients": 3, "examples": 1000}
    assert [cell.paper for cell in full.cells] == [80.20, 79.01]


def test_a_grid_has_a_cell_for_each_pair(tmp_path):
    path = write_experiment(
        tmp_path,
        cells=[],
        ceiling=None,
        rows=[{"label": f"{n} clients", "set": {"data.clients": n}, "small": {"data.examples": n}} for n in (5, 7)],
        columns=[{"label": f"{n} layers", "set": {"selection.layers": n}} for n in (1, 3)],
    )
    cells = definitions.read(path, small=True).cells
    assert [cell.label for cell in cells] == [f"{c} clients, {n} layers" for c in (5, 7) for n in (1, 3)]
    assert [(cell.row, cell.column) for cell in cells[:1]] == [("5 clients", "1 layers")]
    settings = cells[3].runs[0].settings
    assert (settings["data"]["clients"], settings["data"]["examples"], settings["selection"]["layers"]) == (7, 7, 3)


def test_equal_settings_are_one_run_and_each_key_and_seed_makes_another(tmp_path):
    one = definitions.read(write_experiment(tmp_path), small=True)
    same = definitions.read(write_experiment(tmp_path, title="Other words"), small=True)
    assert [run.digest for run in one.runs] == [run.digest for run in same.runs]
    other = definitions.read(write_experiment(tmp_path, set={"training.epochs": 3}), small=True)
    assert len({run.digest for run in [*one.runs, *other.runs]}) == 2 * 2 * 3
    assert [run.seed for run in one.runs] == [1, 1, 2, 2, 3, 3]
    twice = write_experiment(tmp_path, cells=[*FILE["cells"], {"label": "again"}])
    assert len(definitions.read(twice, small=True).runs) == 2 * 3  # "two" and "again" are the same


def test_the_figures_of_the_paper_that_repeat_figure_1_share_its_runs():
    fig1 = set(run.plan([definitions.load("fig1", small=True)]))
    for name in ("fig3", "table3"):
        assert set(run.plan([definitions.load(name, small=True)])) <= fig1
    assert len(set(run.plan([definitions.load("fig4", small=True)])) & fig1) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sede": [1]}, "unknown key 'sede'"),
        ({"seeds": [1, 1]}, "seeds must be distinct integers, found \\[1, 1\\]"),
        ({"kind": "pie"}, "kind must be one of curves"),
        ({"ceiling": "none"}, "ceiling 'none' is not the label of a cell; the labels are all, two"),
        ({"rows": [{"label": "5"}]}, "rows and columns must be given together"),
        ({"cells": [{"label": "all"}, {"label": "all"}]}, "cells must have unique labels"),
        ({"cells": [{"label": "all", "paper": "fig1.5"}]}, "'fig1.5' is not in configs/paper.yaml"),
        ({"cells": [{"label": "all", "set": {"merge": "mean"}}]}, "all: .*merge must be one of all_clients"),
        (
            {"cells": [{"label": "all", "set": {"data.name.x": 1}}]},
            "data.name.x: 'name' is a value, not a section",
        ),
        ({"cells": [{"label": "all", "set": {"selection.names": ["x"]}}]}, "unknown key 'names'"),
    ],
)
def test_what_is_wrong_in_a_file_is_refused_by_its_name(tmp_path, changes, message):
    path = write_experiment(tmp_path, **changes)
    with pytest.raises(SettingsError, match=message) as refused:
        definitions.read(path, small=True)
    assert str(path) in str(refused.value)


def test_an_unknown_experiment_is_refused_with_the_known_ones():
    with pytest.raises(FednPartialError, match=r"Unknown experiment 'fig9': use fig1, fig2a.*or all"):
        definitions.load("fig9", small=True)


# What runs came to

LAYERS = {"lstm": 100, "dense": 20}
ACCURACIES = [0.2, 0.4, 0.5, 0.6]  # by round; the last three have mean 0.5


def write_finished(runs: Path, one: definitions.PlannedRun, shift: float = 0.0) -> results.Result:
    """Write the folder of a run of two clients, of which the second has three times the test examples."""
    rows = []
    for number, accuracy in enumerate(ACCURACIES, start=1):
        for client, gap, tests in (("client-1", 0.3, 10), ("client-10", -0.1, 30)):
            rows.append(
                {
                    "round": number,
                    "client": client,
                    "layers": ["lstm"] if number % 2 or client == "client-10" else ["dense"],
                    "upload_bytes": 1000 + number,
                    "training_macs": 500,
                    "total_params": 120,
                    "accuracy": accuracy + gap + shift,
                    "test_examples": tests,
                }
            )
    write_run(runs / one.digest, rows, layers=LAYERS)
    shards = runs / "data" / one.digest
    for client, train, test in (("client-1", [1, 1, 0], [1, 0, 0]), ("client-10", [1, 2], [1])):
        (shards / client).mkdir(parents=True)
        np.save(shards / client / "y_train.npy", np.array(train, np.int32))
        np.save(shards / client / "y_test.npy", np.array(test, np.int32))
    result = results.summarise(one, runs / one.digest, shards)
    results.write(result, runs / one.digest)
    return result


@pytest.fixture
def experiment(tmp_path):
    return definitions.read(write_experiment(tmp_path), small=True)


def test_a_result_is_counted_from_a_runs_folder(tmp_path, experiment):
    result = write_finished(tmp_path, experiment.runs[0])
    assert result.accuracies == pytest.approx(ACCURACIES)  # (a + 0.3) * 10 + (a - 0.1) * 30 is 40 a
    assert result.accuracy == pytest.approx(0.5)
    assert result.upload_bytes == [2002, 2004, 2006, 2008]
    assert result.training_macs == [1000] * 4
    assert result.full_bytes == 4 * 240
    assert result.trained == {"client-1": [2, 2], "client-10": [4, 0]}
    assert result.floor == 0.5  # most train on class 1, which two of four test examples have
    assert results.collect(tmp_path, experiment.runs) == {result.digest: result}


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(2001, None), (2002, (0, 1)), (3004, (0.5, 1.5)), (6012, (2, 3)), (8020, (3, 4))],
)
def test_accuracy_at_a_budget_is_read_off_between_the_rounds(tmp_path, experiment, budget, expected):
    result = write_finished(tmp_path, experiment.runs[0])
    at = result.at(result.upload_bytes, budget)
    if expected is None:
        assert at is None
        return
    place, rounds = expected
    low, high = ACCURACIES[math.floor(place)], ACCURACIES[math.ceil(place)]
    assert at == (pytest.approx((low + high) / 2), pytest.approx(rounds))


def test_a_round_that_nobody_tested_is_named(tmp_path, experiment):
    one = experiment.runs[0]
    write_run(tmp_path / one.digest, [{"round": 1, "client": "client-1"}], layers=LAYERS)
    with pytest.raises(FednPartialError, match="no client tested the model of round 1"):
        results.summarise(one, tmp_path / one.digest, tmp_path)


def test_results_are_kept_in_one_file_and_a_damaged_one_is_named(tmp_path, experiment):
    found = {one.digest: write_finished(tmp_path, one) for one in experiment.runs[:3]}
    path = tmp_path / "docs" / "runs.jsonl"
    results.write_all(path, found)
    assert results.read_all(path) == found
    lines = path.read_text().splitlines()
    assert [json.loads(line)["digest"] for line in lines] == sorted(found)
    path.write_text(f"{lines[0]}\n{lines[1][:-9]}\n")
    with pytest.raises(FednPartialError, match=r"runs.jsonl, line 2 is damaged .*remove it"):
        results.read_all(path)
    path.write_text(lines[0].replace('"epochs":2', '"epochs":5') + "\n")
    with pytest.raises(FednPartialError, match="line 1: the settings do not match the digest"):
        results.read_all(path)


def test_a_table_has_ours_the_papers_and_the_distance_to_full_training_seed_by_seed(tmp_path, experiment):
    full, partial = experiment.cells
    shifts = (0.01, 0.09, -0.04)
    found = {}
    for cell, gaps in ((full, (0.10, 0.14, 0.12)), (partial, shifts)):
        for one, gap in zip(cell.runs, gaps, strict=True):
            found[one.digest] = write_finished(tmp_path, one, gap)
    top, line = spreads.lines(experiment, found)
    ours = [50 + 100 * gap for gap in shifts]
    assert line.ours.mean == pytest.approx(np.mean(ours))
    assert line.ours.deviation == pytest.approx(np.std(ours, ddof=1))
    assert (line.paper, line.difference) == (79.01, pytest.approx(np.mean(ours) - 79.01))
    distances = [-9, -5, -16]
    assert line.below.mean == pytest.approx(-10)
    assert line.below.deviation == pytest.approx(statistics.stdev(distances))
    assert line.paper_below == pytest.approx(79.01 - 80.20)
    assert line.floor.mean == 50
    assert top.below is None and top.paper_below is None
    shown = tables.table(experiment, found).text()
    assert "52.00 ± 6.56" in shown and "-10.00 ± 5.57" in shown and "over 3 seeds" in shown


def test_runs_that_are_missing_are_named_and_nothing_is_made_up(tmp_path, experiment):
    first = experiment.cells[0].runs[0]
    found = {first.digest: write_finished(tmp_path, first)}
    top, line = spreads.lines(experiment, found)
    assert top.ours.mean == pytest.approx(50) and top.ours.deviation is None
    assert (line.ours, line.difference, line.below, line.floor) == (None, None, None, None)
    shown = tables.table(experiment, found).text()
    assert "50.00 (1 of 3 runs)" in shown and "not run" in shown


# Running them


def test_each_run_is_run_once_and_what_is_done_is_not_run_again(tmp_path, capsys):
    pytest.importorskip("sklearn")
    (tmp_path / "base-test.yaml").write_text(
        yaml.safe_dump(
            {
                "case": {
                    "model": {"name": "vgg16", "width": 0.015625, "batchnorm_momentum": 0.5},
                    "selection": {"selector": "random", "layers": 2, "always_train": ["dense"]},
                    "session": {"rounds": 2},
                    "data": {"name": "digits", "clients": 2, "examples": 100},
                }
            }
        )
    )
    path = tmp_path / "tiny.yaml"
    cells = [{"label": "two"}, {"label": "all", "set": {"selection": {"selector": "all"}}}, {"label": "again"}]
    path.write_text(yaml.safe_dump({**FILE, "seeds": [1], "set": {}, "cells": cells}))
    experiment = definitions.read(path, small=True)
    runs = tmp_path / "runs"
    with workers(1) as pool:
        run.run_all([experiment], runs, None, pool)
    told = capsys.readouterr().out
    assert re.search(r"1 of 2  tiny-small, two, seed 1: accuracy 0\.\d+, \d+ s; about", told)
    found = results.collect(runs, experiment.runs)
    two, full = (found[cell.runs[0].digest] for cell in experiment.cells[:2])
    assert full.trained == {"client-1": [2] * 14, "client-2": [2] * 14}
    assert [counts[-1] for counts in two.trained.values()] == [2, 2]
    assert sum(map(sum, two.trained.values())) == 2 * 2 * 2
    rows = load_run(runs / two.digest).rows
    assert "data" not in load_run(runs / two.digest).session  # they are the case's own
    assert two.accuracies[1] == pytest.approx(
        weighted_mean([row for row in rows if row.round == 2], "accuracy"), abs=1e-4
    )
    assert full.full_bytes <= full.upload_bytes[0] <= 1.01 * full.full_bytes + 2 * 8192
    assert 0 < two.floor < 0.35
    run.run_all([experiment], runs, None, pool=None)  # nothing is left that would need a pool
    assert capsys.readouterr().out == ""


WRONG = {
    "data.clients": (1, "clients_per_round is 2, but data: clients is 1"),
    "selection.layers": (7, "layers is 7, but the model has 6 layers"),
}


@pytest.mark.parametrize("key", WRONG)
def test_a_case_that_cannot_be_simulated_is_named_before_the_first_run(key, tmp_path):
    value, message = WRONG[key]
    settings = {"session.clients_per_round": 2}
    cells = [{"label": "good"}, {"label": "wrong", "set": {key: value}}]
    path = write_experiment(tmp_path, set=settings, cells=cells, ceiling=None)
    experiment = definitions.read(path, small=True)
    with pytest.raises(FednPartialError, match=f"comparison-small, wrong, seed 1: .*{message}"):
        run.run_all([experiment], tmp_path / "runs", None, pool=None)
    with pytest.raises(FednPartialError, match=r"--source: folder .* does not exist"):
        run.run_all([experiment], tmp_path / "runs", tmp_path / "none", pool=None)
    assert not (tmp_path / "runs").exists()


def test_data_sets_have_folders_of_their_own_in_the_source_or_share_it(tmp_path):
    (tmp_path / "casa").mkdir()
    assert run.source_of(tmp_path, "casa") == tmp_path / "casa"
    assert run.source_of(tmp_path, "imdb") == tmp_path
    assert run.source_of(None, "imdb") is None
