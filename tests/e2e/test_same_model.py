"""The simulator and a real FEDn network come to the same global model, bit for bit."""

import dataclasses
import os

import numpy as np
import pytest
from paths import ROOT

from fedn_partial.client.data import data_sets
from fedn_partial.client.fleet import local_run
from fedn_partial.client.records.load import load_run
from fedn_partial.client.records.run_folder import RunFolder
from fedn_partial.client.simulation import simulate
from fedn_partial.client.simulation.workers import workers
from fedn_partial.custom import modules
from fedn_partial.exchange import model_file, wire
from fedn_partial.settings.case import Case, load_case
from fedn_partial.settings.schema import parse

CASES = {
    "plain": {"selection": {"selector": "random", "layers": 4, "always_train": ["dense"], "warmup_rounds": 1}},
    "own statistics": {
        "selection": {"selector": "scored", "layers": 5, "warmup_rounds": 1},
        "merge": "shrunk",
        "batchnorm_statistics": "local",
    },
    # Everything that a client keeps, that the server tells, and that the server is told.
    "all at once": {
        "selection": {"selector": "stratified", "layers": 4, "always_train": ["dense"], "warmup_rounds": 1},
        "merge": "inverse_probability",
        "batchnorm_statistics": "always",
        "codec": "int8",
    },
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """As the simulator's processes: with more threads a sum of floats may come out otherwise in its last bit."""
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.setitem(os.environ, variable, "1")


@pytest.mark.parametrize("name", CASES)
def test_simulator_and_fedn_give_the_same_global_model(name, tmp_path):
    raw = {
        "name": "same",
        "seed": 3,
        "model": {"name": "vgg16", "width": 0.0625, "batchnorm_momentum": 0.8},
        "session": {"rounds": 3, "round_timeout": 60, "min_clients": 2},
        "data": {"name": "digits", "clients": 2, "examples": 400},
        **CASES[name],
    }
    assert_same_model(parse(Case, raw, "test"), tmp_path)


def test_custom_modules_give_the_same_global_model(tmp_path):
    """Model, data set, selector, codec and merge rule of the user's own at once, as docs/ARCHITECTURE.md shows them."""
    case = load_case(ROOT / "docs" / "examples" / "case.yaml")
    try:
        case = dataclasses.replace(
            case,
            session=dataclasses.replace(case.session, round_timeout=60, min_clients=2),
            data=dataclasses.replace(case.data, clients=2, examples=400),
        )
        assert_same_model(case, tmp_path)
    finally:
        modules.use(None)


def assert_same_model(case, tmp_path):
    """Run a case of 3 rounds and 2 clients in both ways, and compare models and rows."""
    with workers(2) as pool:
        simulate(case, tmp_path / "simulated", None, pool)
    with np.load(tmp_path / "simulated" / "model-3.npz") as archive:
        simulated = [archive[str(index)] for index in range(len(archive.files))]
    shards = data_sets.partition_case(case.data, case.seed)
    assert local_run.run(case, RunFolder(tmp_path / "real", case), *shards)["problem"] is None

    stored = {}
    for path in (tmp_path / "real" / "network" / "storage" / "fedn-models").iterdir():
        stored[wire.digest(model_file.read_model(str(path)))] = path
    assert wire.digest(simulated) in stored  # FEDn gives its models random names
    rows = [{(row.round, row.client): row for row in load_run(tmp_path / run).rows} for run in ("simulated", "real")]
    assert rows[0].keys() == rows[1].keys() and len(rows[0]) == 6
    for key, simulated in rows[0].items():
        real = rows[1][key]
        for column in ("layers", "train_loss", "num_examples", "training_macs", "trained_params", "warmup"):
            assert getattr(simulated, column) == getattr(real, column), (key, column)
        assert simulated.accuracy == pytest.approx(real.accuracy, abs=1e-9)
        assert 0 < real.upload_bytes - simulated.upload_bytes < 1500  # the frame of FEDn's message
