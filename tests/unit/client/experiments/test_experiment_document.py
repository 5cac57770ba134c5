"""Tables and statistics of experiments against sums done here, and the page of all results."""

import dataclasses
import math
import re
import statistics

import pytest
from paths import ROOT
from reports.made_up_results import FULL, made_up_of_every_experiment

from fedn_partial.client.experiments import definitions, document, results, tables
from fedn_partial.client.experiments import statistics as spreads
from fedn_partial.errors import FednPartialError

NAMES = definitions.names()


@pytest.fixture(scope="module")
def all_results():
    return made_up_of_every_experiment()


def with_accuracies(result, accuracies):
    return dataclasses.replace(result, accuracies=accuracies)


# Tables


def test_shares_of_table_3_are_bytes_over_a_full_updates_and_stand_beside_the_papers(all_results):
    table = tables.table(definitions.load("table3", small=True), all_results)
    assert table.heads[3:] == ("% of full", "paper's", "difference")
    four = table.rows[0]
    assert four[0] == "4 layers"
    sent = int(FULL * 10 * 4 / 14)
    assert four[1] == f"{sent / 2**20:.2f} ± 0.00"
    assert four[2] == "133.1" and four[4] == f"{100 * 133.1 / 561.6:.2f}"
    assert four[3] == f"{100 * sent / (10 * FULL):.2f} ± 0.00"
    assert four[5] == f"{100 * sent / (10 * FULL) - 100 * 133.1 / 561.6:+.2f}"


def test_counts_of_figure_3_leave_out_the_layer_that_is_always_trained(all_results):
    experiment = definitions.load("fig3", small=True)
    first = experiment.cells[0].runs[0]
    only = {first.digest: all_results[first.digest]}
    counts = [count for client in only[first.digest].trained.values() for count in client[:-1]]
    row = tables.table(experiment, only).rows[0]
    assert row == (
        "4 layers",
        "20 (1 of 3 runs)",
        str(min(counts)),
        f"{statistics.fmean(counts):.2f}",
        str(max(counts)),
        str(counts.count(0)),
    )


def test_at_equal_bytes_each_is_read_off_where_the_cheapest_ends(all_results):
    experiment = definitions.load("selectors", small=True)
    cells = {cell.label: cell for cell in experiment.cells}
    known = dict(all_results)
    rounds = 20
    for cell in experiment.cells:
        for run in cell.runs:
            known[run.digest] = dataclasses.replace(
                all_results[run.digest],
                accuracies=[number / 100 for number in range(1, rounds + 1)],
                upload_bytes=[1000 if cell.label == "all" else 250] * rounds,
                training_macs=[100 if cell.label == "all" else 50 if cell.label == "top" else 80] * rounds,
            )
    found = {row.cell.label: row for row in spreads.at_budgets(experiment, known)}
    assert found["random"].accuracy.mean == pytest.approx(19)  # mean of 18, 19, 20
    assert found["all"].bytes_rounds.mean == 5  # 5,000 bytes
    assert found["all"].at_bytes.mean == pytest.approx(5)
    assert found["all"].macs_rounds.mean == 10  # 1,000
    assert found["random"].macs_rounds.mean == 12.5
    assert found["random"].at_macs.mean == pytest.approx(12.5)
    assert found["top"].at_macs.mean == pytest.approx(20)
    book = document.Document(known, None)
    assert book._difference("selectors", "all", "random", "bytes").mean == pytest.approx(5 - 20)
    assert book._difference("selectors", "all", "random", "operations").mean == pytest.approx(10 - 12.5)
    assert book._difference("selectors", "all", "random").mean == pytest.approx(0)
    # A seed of which a run is missing is left out: its budget is not known.
    del known[cells["top"].runs[1].digest]
    assert book._difference("selectors", "all", "random", "bytes").count == 2
    assert spreads.budgets(experiment, known, "upload_bytes").to_dict() == {1: 5000, 3: 5000}


@pytest.mark.parametrize(
    ("values", "significant"),
    [([2.0, 2.1, 1.9], True), ([-2.0, -2.1, -1.9], True), ([2.0, 0.1, 4.0], False), ([5.0], False), ([3, 3, 3], False)],
)
def test_a_difference_is_significant_if_students_t_says_so(values, significant):
    assert spreads.spread(values).significant is significant


# Two-sided quantiles of Student's t at 95 %, by number of runs, as printed in tables
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262, 21: 2.086}


@pytest.mark.parametrize("count", T95)
def test_the_margin_is_half_of_students_95_percent_interval(count):
    values = [float(number % 3) for number in range(count)]
    found = spreads.spread(values)
    expected = T95[count] * statistics.stdev(values) / math.sqrt(count)
    assert found.margin == pytest.approx(expected, rel=2.5e-4)


def test_columns_of_the_paper_are_left_out_where_it_prints_nothing(all_results):
    heads = {name: tables.table(definitions.load(name, small=True), all_results).heads for name in NAMES}
    assert "paper" in heads["fig1"] and "to 14 layers" in heads["fig1"]
    assert "paper" not in heads["merge-adam"] and "to 14 layers" in heads["merge-adam"]
    assert not [head for head in heads["clients"] if head.startswith("to ")]


# The page


@pytest.fixture(scope="module")
def written(all_results, tmp_path_factory):
    docs = tmp_path_factory.mktemp("docs")
    results.write_all(docs / "results/runs.jsonl", all_results)
    missing = document.write(docs / "no-runs", docs)
    return docs, missing


def test_the_page_is_written_from_the_kept_results_alone(written):
    docs, missing = written
    page = (docs / "RESULTS.md").read_text()
    assert missing == [] and "not run" not in page
    assert "All small versions are complete." in page
    shown = re.findall(r"\]\((pictures/[^)]+)\)", page)
    assert len(shown) == len(set(shown)) == len(NAMES)
    assert all((docs / path).stat().st_size for path in shown)
    prose = [line for line in page.splitlines() if not line.startswith(("|", "!", "fedn-partial"))]
    assert max(map(len, prose)) <= 120


def test_the_page_names_what_differs_from_the_papers_published_code(written):
    page = " ".join((written[0] / "RESULTS.md").read_text().split())
    for words in (
        "FEDn of that time averaged the clients' models unweighted",
        "moving variance of Keras 2's BatchNormalization follows a batch's variance times N/(N-1)",
        "Adam of Keras 3.15 squares each gradient of an embedding row that occurs more than once in a batch by itself",
    ):
        assert words in page
    kept = ROOT / "docs" / "RESULTS.md"
    assert "cannot be set" in page and "cannot be set" in kept.read_text()


def test_numbers_in_the_prose_are_those_of_the_results(written, all_results):
    page = " ".join((written[0] / "RESULTS.md").read_text().split())
    fig1 = {cell.label: [all_results[run.digest] for run in cell.runs] for cell in definitions.load("fig1", True).cells}
    for layers, papers in ((10, "-0.38"), (7, "-1.29"), (4, "-7.08")):
        gaps = [
            100 * (statistics.fmean(mine.accuracies[-3:]) - statistics.fmean(full.accuracies[-3:]))
            for mine, full in zip(fig1[f"{layers} layers"], fig1["14 layers"], strict=True)
        ]
        told = f"{layers} layers {statistics.fmean(gaps):+.2f} ± {statistics.stdev(gaps):.2f} ({papers})"
        assert told in page


def test_writing_again_changes_nothing_and_results_that_nothing_wants_go(written, all_results):
    docs, _ = written
    before = {path: path.read_bytes() for path in docs.rglob("*") if path.is_file()}
    stale = dataclasses.replace(next(iter(all_results.values())), settings={"seed": 9})
    stale = dataclasses.replace(stale, digest=definitions.PlannedRun(stale.settings).digest)
    results.write_all(docs / "results/runs.jsonl", {**all_results, stale.digest: stale})
    document.write(docs / "no-runs", docs)
    assert {path: path.read_bytes() for path in docs.rglob("*") if path.is_file()} == before


def test_a_missing_run_is_named_and_nothing_is_concluded_without_it(all_results, tmp_path):
    experiment = definitions.load("warmup", small=True)
    gone = experiment.cells[3].runs[1].digest
    results.write_all(tmp_path / "results/runs.jsonl", {key: one for key, one in all_results.items() if key != gone})
    assert document.write(tmp_path / "no-runs", tmp_path) == ["warmup-small: not run: 3 rounds (seed 2)"]
    page = (tmp_path / "RESULTS.md").read_text()
    assert "Incomplete; no conclusions are drawn. warmup-small: not run: 3 rounds (seed 2)." in page
    assert "(2 of 3 runs)" in page and "Relative to no warm-up, 1 round" not in page
    assert "All small versions are complete" not in page


def test_runs_that_are_done_come_into_the_kept_results(all_results, tmp_path):
    one = definitions.load("fig1", small=True).runs[0]
    folder = tmp_path / "runs" / one.digest
    folder.mkdir(parents=True)
    results.write(all_results[one.digest], folder)
    document.write(tmp_path / "runs", tmp_path)
    assert results.read_all(tmp_path / "results/runs.jsonl") == {one.digest: all_results[one.digest]}


def test_words_follow_the_figures(all_results):
    experiment = definitions.load("fig1", small=True)
    full, ten = experiment.cells[1:3]
    known = dict(all_results)
    for run, gap in zip(ten.runs, (0.03, 0.04, 0.035), strict=True):
        known[run.digest] = with_accuracies(all_results[run.digest], [0.5 + gap])
    for run in full.runs:
        known[run.digest] = with_accuracies(all_results[run.digest], [0.5])
    book = document.Document(known, None)
    assert book.versus("fig1", "10 layers", "14 layers") == "3.50 ± 0.50 points above"
    assert book.versus("fig1", "14 layers", "10 layers") == "3.50 ± 0.50 points below"
    assert book.gap("fig1", "14 layers", "10 layers") == "**-3.50 ± 0.50**"
    known[ten.runs[0].digest] = with_accuracies(known[ten.runs[0].digest], [0.4])
    assert book.versus("fig1", "10 layers", "14 layers").startswith("no significant difference (-0.83")
    assert "not run" in document.Document({}, None).versus("fig1", "10 layers", "14 layers")
    with pytest.raises(FednPartialError, match="fig1 has no cell '9 layers'; it has centralised"):
        book.versus("fig1", "9 layers", "14 layers")


def test_the_best_way_is_looked_for_among_cells_that_differ_from_full_training_in_method_alone(all_results):
    best = definitions.load("warmup", small=True).cells[3]  # 3 rounds
    elsewhere = definitions.load("shrinkage", small=True).cells[3]  # another number of rounds: not comparable
    assert elsewhere.runs[0].settings["session"] != best.runs[0].settings["session"]
    known = {
        key: with_accuracies(one, [0.9 if key in {run.digest for run in elsewhere.runs} else 0.3])
        for key, one in all_results.items()
    }
    for run in best.runs:
        known[run.digest] = with_accuracies(known[run.digest], [0.4])
    tried, where, gap = document.Document(known, None)._best(4)
    assert where == "warmup, 3 rounds" and gap.mean == pytest.approx(10)
    assert tried == 11  # fig1 1, selectors 5, warmup 3, batchnorm 2; what another experiment repeats counts once


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([-1.0, -1.1, -0.9], "met"),
        ([-3.0, -3.1, -2.9], "missed"),
        ([-1.0, -3.5, 0.0], "inconclusive"),
        ([-1.0], "inconclusive"),
    ],
)
def test_a_goal_is_met_or_missed_if_the_95_percent_interval_says_so(values, verdict):
    assert document._verdict(spreads.spread(values), -2.0) == verdict


def test_the_readmes_accuracies_are_those_of_the_results():
    kept = results.read_all(ROOT / "docs" / "results" / "runs.jsonl")
    lines = {line.label: line for line in spreads.lines(definitions.load("fig1", small=True), kept)}
    shown = [lines[f"{layers} layers"] for layers in (10, 7, 4)]
    ours = " | ".join(f"{-line.below.mean:.2f} ± {line.below.deviation:.2f}" for line in shown)
    papers = " | ".join(f"{-line.paper_below:.2f}" for line in shown)
    text = (ROOT / "README.md").read_text()
    assert f"3 seeds | {ours} |" in text
    assert f"full size | {papers} |" in text
    text, book = " ".join((ROOT / "docs/EXPERIMENTS.md").read_text().split()), document.Document(kept, None)
    warm = {line.label: line for line in spreads.lines(definitions.load("warmup", small=True), kept)}
    few, more = warm["0 rounds"], warm["5 rounds"]
    assert f"4 layers end {-more.below.mean:.2f} ± {more.below.deviation:.2f} points below" in text
    assert f"with {more.share.mean:.0f} % of its bytes instead of {few.share.mean:.0f} %" in text
    bytes_, computing = (book._difference("selectors", "random", "all", equal) for equal in ("bytes", "operations"))
    assert f"{bytes_} points above full training at equal bytes" in text
    assert f"{-computing.mean:.2f} ± {computing.deviation:.2f} points below at equal operations" in text
    chance = book._line("merge-adam", "4 layers, contributors")
    assert chance.ours.mean < chance.floor.mean + 2
