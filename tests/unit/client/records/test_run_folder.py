"""What a run writes into its folder."""

import json
import re
import types

import psutil
from paths import ROOT

from fedn_partial.client.records import run_folder
from fedn_partial.client.records.load import load_run
from fedn_partial.client.report.rounds import layer_count, layer_names
from fedn_partial.settings.case import load_case


def test_a_runs_folder_says_on_what_and_with_which_layers_it_ran(tmp_path):
    folder = run_folder.RunFolder(tmp_path, load_case(ROOT / "configs/quickstart.yaml"))
    sizes = {"conv0": 7, "b": 9}
    folder.set_layers([types.SimpleNamespace(name=name, parameters=size) for name, size in sizes.items()])
    session = json.loads((folder.path / "session.json").read_text())
    assert list(session["layers"].items()) == list(sizes.items())
    found = re.fullmatch(r"\w+ \w+, ([\d.]+) processors?, ([\d.]+) GB of memory", session["machine"])
    assert 0 < float(found[1]) <= psutil.cpu_count()
    assert 0 < float(found[2]) <= psutil.virtual_memory().total / 1e9 + 0.1
    folder.finish({"problem": None})
    run = load_run(folder.path)
    assert layer_names(run) == ["conv0", "b"] and layer_count(run) == 2
