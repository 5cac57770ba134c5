"""The paper's Tables 3, 4 and 5, and ours beside them."""

import pytest
from reports.report_cases import VGG16, make_profile, vgg_rows
from reports.run_folders import write_run

from fedn_partial.client.experiments.paper import figures
from fedn_partial.client.records.load import load, load_run
from fedn_partial.client.report import paper
from fedn_partial.client.report.table3 import table3, table3_remarks
from fedn_partial.client.report.tables import paper_costs_table, records


def test_the_papers_tables_agree_with_its_own_text():
    tables = figures()
    for line in tables["table3"]["layers"].values():
        assert line["parameters_million"] * 4e6 / 2**20 == pytest.approx(line["sent_mib"], abs=0.2)
    four, fourteen = (tables["table4"]["ssc.small.highcpu"][layers] for layers in (4, 14))
    growth = {key: round(fourteen[key] - four[key], 2) for key in ("seconds", "cpu_percent", "ram_percent")}
    assert growth == {"seconds": 84.41, "cpu_percent": 8, "ram_percent": 12.14}  # section 5.2.6
    assert [layers for layers, cell in tables["table4"]["ssc.xsmall"].items() if cell == "-"] == [7, 10, 14]
    assert [layers for layers, cell in tables["table4"]["ssc.small"].items() if cell == "-"] == [14]
    nano = tables["table5"]["jetson-nano-2gb"]
    assert round(nano[10]["seconds"] - nano[4]["seconds"]) == 66 and nano[14] == "-"  # section 5.2.7
    assert all(list(cells) == [4, 7, 10, 14] for cells in [*tables["table4"].values(), nano])
    assert len(tables["table4"]) == 7


def test_table_3_scales_the_mean_update_to_10_clients(tmp_path):
    rows = vgg_rows((4, 2**20, 1_000_000), (4, 3 * 2**20, 2_000_000), (14, 56 * 2**20, 14_736_714), (5, 7, 7))
    run = load_run(write_run(tmp_path / "run", rows, name="ours", model={"name": "vgg16", "width": 1.0}))
    printed, ours = table3([run], [])
    assert (printed.mib[4], printed.weights[4], printed.share[14]) == (133.1, 34.88, 1)
    assert printed.share[7] == pytest.approx(259.1 / 561.6)
    assert ours.mib == {4: 20, 7: None, 10: None, 14: 560}
    assert (ours.weights[4], ours.weights[14]) == (15, pytest.approx(147.36714))
    assert ours.share[4] == pytest.approx(2 * 2**20 / (4 * 14_736_714))
    assert "compare the shares" not in table3_remarks([printed, ours])[0]


def test_table_3_is_for_the_papers_model_only_and_says_what_differs(tmp_path):
    rows = vgg_rows((4, 2**20, 1_000_000))
    other = load_run(write_run(tmp_path / "other", rows, model={"name": "lstm_har"}))
    assert table3([other], []) == []
    narrow = {"model": {"name": "vgg16", "width": 0.25}, "codec": "int8"}
    (remark,) = table3_remarks(table3([load_run(write_run(tmp_path / "narrow", rows, **narrow))], []))
    assert "0.25 of the paper's width" in remark and "int8" in remark and "compare the shares" in remark


def test_table_4_puts_the_papers_cells_beside_ours(tmp_path):
    _, (profile,) = load([make_profile(tmp_path / "profile", **VGG16)])
    found = paper.costs(profile)
    assert found.table == 4 and found.columns == (4, 7, 10, 14)
    small, board, large = found.flavours
    assert small.pairs[4].ours.seconds == 10 and small.pairs[4].paper["seconds"] == 1119.49
    assert found.gained == [("ssc.xsmall", 7)]  # not 10, where it trained fewer layers, nor 14, where it was killed
    assert board.pairs[4].paper is None and board.pairs[7].ours is None
    assert large.refused.startswith("has 4") and large.pairs[14].paper["ram_mb"] == 1723
    rows = records(paper_costs_table([found]), flavour="ssc.xsmall", layers=7)
    assert [(r["source"], r["seconds"], r["killed"]) for r in rows] == [
        ("profile", 12, None),
        ("paper", None, "did not run"),
    ]


@pytest.mark.parametrize(
    ("width", "batch", "table"), [(1.0, 32, 4), (None, 8, 4), (0.5, 4, 5), (0.5, 32, None), (0.25, 4, None)]
)
def test_which_of_the_papers_tables_a_profile_repeats(tmp_path, width, batch, table):
    model = {"name": "vgg16"} | ({"width": width} if width else {})
    settings = {"model": model, "training": {"batch_size": batch}}
    _, (profile,) = load([make_profile(tmp_path / "profile", **settings)])
    assert paper.paper_table(profile) == table
