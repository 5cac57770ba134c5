"""The result of a run or profile in a sentence."""

import csv
import json

import pytest
from reports.report_cases import LAYERS, ROWS, UPLOADED, VGG16, client, full_run, make_profile
from reports.run_folders import write_profile, write_run

from fedn_partial.client.report.page import write_report
from fedn_partial.client.report.results import timing
from fedn_partial.client.report.summary import Times
from fedn_partial.client.report.wording import SPACE, less


def test_a_run_is_compared_with_full_training_of_the_same_model_and_data(tmp_path):
    data = {"data": {"name": "digits", "clients": 3}}
    part = write_run(tmp_path / "part", ROWS, name="part", layers=LAYERS, **data)
    same = full_run(tmp_path / "same", 0.9, 9.0, 300, **data)
    other = full_run(tmp_path / "other", 0.1, 9.0, 300, data={"name": "other", "clients": 3})
    (sentence,) = write_report([other, part, same], tmp_path / "report.html")["result"]
    less = round(100 * (1 - UPLOADED / 1440))
    assert sentence == (
        "part: Training 1 to 2 of 3 layers in each client and round, after 1 warm-up round of all layers, reached an "
        "accuracy of 80.0 % after 5 rounds, "
        f"where full training reached 90.0 % after 1 round; clients sent {less} % less than with full updates, and a "
        "client's round took 50 % less time and 50 % less memory than with all layers (4.5 ± 0.7 s in 2 updates of 1 "
        "round; 9.0 ± 0.0 s in 2 updates of 1 round with all layers)."
    )
    (alone,) = write_report([part], tmp_path / "alone.html")["result"]
    assert "(4.5 ± 0.7 s in 2 updates of 1 round; 7.0 ± 1.4 s in 2 updates of 1 round with all layers)" in alone
    assert "4.5 ± 0.7 s in 2 updates of 1 round; 7.0" in (tmp_path / "alone.html").read_text().replace(SPACE, " ")
    assert "full training" not in alone and "36 % less time than with" in alone  # 4.5 of the warm-up's 7 s
    assert "No baseline: include a run of full training" in (tmp_path / "alone.html").read_text()
    assert "No baseline" not in (tmp_path / "report.html").read_text()


def test_a_session_that_ended_in_its_warm_up_is_not_called_full_training(tmp_path):
    final = {"problem": "interrupted"}
    path = write_run(tmp_path / "run", ROWS[:2], layers=LAYERS, final=final, selection={"selector": "random"})
    (sentence,) = write_report([path], tmp_path / "report.html")["result"]
    assert sentence == (
        "Only 1 warm-up round of all layers was run and no partial round; "
        "the model has an accuracy of 31.2 % after 1 round."
    )
    page = (tmp_path / "report.html").read_text()
    assert "in partial rounds" not in page
    assert "No problems: no answer" not in page and "is incomplete: interrupted" in page


def test_a_warm_up_in_which_a_client_trained_fewer_layers_is_not_said_to_be_of_all(tmp_path):
    rows = [{**ROWS[0], "layers": ROWS[0]["layers"][:1]}, *ROWS[1:]]
    path = write_run(tmp_path / "run", rows, layers=LAYERS, selection={"selector": "random"})
    (sentence,) = write_report([path], tmp_path / "report.html")["result"]
    assert "after 1 warm-up round, reached" in sentence and "warm-up round of all" not in sentence


def test_a_part_that_is_not_nothing_is_not_100_percent_less():
    assert less(6_800, 11_000_000).replace(SPACE, " ") == "over 99 % less"
    assert less(0, 100).replace(SPACE, " ") == "100 % less"


def test_one_measurement_has_no_spread():
    assert timing(Times(4.5, None, 1, 1)).replace(SPACE, " ") == "4.5 s in 1 update of 1 round"
    assert timing(Times(None, None, 0, 0)) == "n/a"


def test_full_training_in_which_a_client_refused_does_not_say_that_every_client_trained(tmp_path):
    rows = [client(1, "c1", ["a", "b", "c"], accuracy=0.5, test_examples=10), client(1, "c2", [], "refused: no memory")]
    path = write_run(tmp_path / "run", rows, layers=LAYERS, selection={"selector": "all"})
    (sentence,) = write_report([path], tmp_path / "report.html")["result"]
    assert sentence.startswith("Full training, all 3 layers in every update: an accuracy of 50.0 % after 1 round; ")


@pytest.mark.parametrize(
    ("part", "whole", "sentence"),
    [(39, 100, "61 % less"), (104, 100, "4 % more"), (100.2, 100, "as much"), (None, 1, None), (1, 0, None)],
)
def test_savings_in_words(part, whole, sentence):
    said = less(part, whole)
    assert (said and said.replace("\xa0", " ")) == sentence


def test_a_profile_that_was_stopped_says_what_is_missing(tmp_path):
    folder = make_profile(tmp_path / "profile", **VGG16)
    content = json.loads((folder / "profile.json").read_text())
    done = [[cell["flavour"], cell["layers"]] for cell in content["cells"]]
    content["asked"] = [*done, ["ssc.xsmall", 13], ["ssc.medium", 4]]
    (folder / "profile.json").write_text(json.dumps(content))
    (sentence,) = write_report([folder], tmp_path / "report.html")["result"]
    assert sentence.endswith("The profile is incomplete: 2 combinations not run.")
    with (tmp_path / "report_data" / "problems.csv").open() as file:
        ended = [row["run"] for row in csv.DictReader(file) if row["why"] == "the profile ended earlier"]
    assert ended == ["ssc.xsmall, 13 layers", "ssc.medium, 4 layers"]


def test_a_profile_that_was_stopped_in_its_first_cell(tmp_path):
    folder = write_profile(tmp_path / "profile", [])
    content = json.loads((folder / "profile.json").read_text()) | {"asked": [["ssc.xsmall", 4]]}
    (folder / "profile.json").write_text(json.dumps(content))
    sentence = write_report([folder], tmp_path / "report.html")["result"]
    assert sentence == ["No training has been completed yet. The profile is incomplete: 1 combination not run."]
