"""How rounds are numbered and layers are named."""

import pytest
from reports.report_cases import client
from reports.run_folders import write_run

from fedn_partial.client.records.load import load_run
from fedn_partial.client.report.rounds import layer_names, rounds


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([(1, "7"), (2, "8"), (4, "10")], [1, 2, 4]),  # as the server functions count
        ([(1, "7"), (1, "8"), (2, "9")], [1, 2, 3]),  # these counted anew: FEDn's own, from 1
        ([(1, "7"), (None, "9")], [1, 3]),  # or did not count
        ([(None, "x"), (None, "y")], [1, 2]),  # of another origin
    ],
)
def test_rounds_are_numbered(tmp_path, numbers, expected):
    rows = [client(number, "c1", ["a"], fedn_round=fedn) for number, fedn in numbers]
    found = rounds(load_run(write_run(tmp_path / "run", rows)))
    assert [one.number for one in found] == expected


def test_layers_without_a_list_are_in_the_order_of_a_full_update_or_by_name(tmp_path):
    full = [client(1, "c1", ["c", "a", "b"]), client(2, "c1", ["b"])]
    assert layer_names(load_run(write_run(tmp_path / "full", full))) == ["c", "a", "b"]
    rows = [{"round": 1, "client": "c1", "layers": ["conv10", "dense"]}]
    rows.append({"round": 2, "client": "c1", "layers": ["conv9", "conv10"]})
    assert layer_names(load_run(write_run(tmp_path / "part", rows))) == ["conv9", "conv10", "dense"]
