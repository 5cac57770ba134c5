"""A key that is added to the settings of a session reaches the device with no other change."""

import json
import shutil
import subprocess
import sys

from paths import ROOT

LAST_KEY = "    session: Session = Session()\n"
NEW_KEY = "    sparsity: float = bounded(0.0, at_least=0, below=1)\n"
# What happens to the settings from the case file to the device: FEDn carries the server functions as text, and the
# settings of a round as JSON.
TRAVEL = """
import json, sys
import keras
from fedn_partial.exchange import wire
from fedn_partial.seed_model import server_functions
from fedn_partial.settings import case
from fedn_partial.submodel.layers import read_layers

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="dense")])
weights = model.get_weights()
settings = server_functions.session_settings(
    case.load_case(sys.argv[1]), read_layers(model), "travel", wire.digest(weights)
)
functions = server_functions.load(server_functions.source(settings))()
functions.client_selection(["id"])
sent = json.dumps(functions.client_settings(weights))
read = case.load_round_settings(json.loads(sent), case.Device(data="unused"))
print(json.dumps({"file": case.__file__, "sparsity": read.sparsity, "rounds": read.session.rounds}))
"""


def test_a_key_that_is_added_to_one_dataclass_arrives_on_the_device(tmp_path):
    library = tmp_path / "fedn_partial"
    shutil.copytree(ROOT / "compute_package/fedn_partial", library)
    for part in ("client", "seed_model", "configs"):
        shutil.copytree(ROOT / part, library / part)
    source = library / "settings/case.py"
    text = source.read_text()
    assert text.count(LAST_KEY) == 1
    source.write_text(text.replace(LAST_KEY, LAST_KEY + NEW_KEY))
    case = tmp_path / "case.yaml"
    case.write_text("name: c\nmodel: {name: vgg16}\nselection: {selector: all}\nsparsity: 0.25\nsession: {rounds: 7}\n")
    done = subprocess.run(
        [sys.executable, "-c", TRAVEL, str(case)],
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    arrived = json.loads(done.stdout.splitlines()[-1])
    assert arrived == {"file": str(source), "sparsity": 0.25, "rounds": 7}
