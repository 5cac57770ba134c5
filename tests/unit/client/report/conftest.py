import pytest
from reports.report_cases import LAYERS, ROWS
from reports.run_folders import write_run

from fedn_partial.client.records.load import load_run


@pytest.fixture
def run(tmp_path):
    return load_run(write_run(tmp_path / "run", ROWS, layers=LAYERS, data={"name": "digits", "clients": 3}))
