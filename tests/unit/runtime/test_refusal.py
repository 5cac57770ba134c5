"""Refusals: what a device sends that cannot train."""

import json
import subprocess
import sys

import numpy as np
import pytest
from fedn.utils.helpers.plugins.numpyhelper import Helper

from fedn_partial.exchange import decoding, wire
from fedn_partial.runtime.refusal import write_refusal


def test_refusal_is_a_model_without_values_for_fedn(tmp_path):
    path = str(tmp_path / "update.npz")
    write_refusal(path, "no data", round=4, client="a")
    (array,) = Helper().load(path)
    assert (array.shape, array.dtype) == ((0,), np.float32)
    with open(path + "-metadata") as file:
        assert json.load(file) == {"num_examples": "0", "layers": [], "refused": "no data", "round": 4, "client": "a"}


def test_refusal_is_no_update(tmp_path):
    path = str(tmp_path / "update.npz")
    write_refusal(path, "no data", format=wire.FORMAT, model="f", codec="float32")
    with open(path + "-metadata") as file, pytest.raises(ValueError, match="has layers"):
        decoding.decode(Helper().load(path), json.load(file), "f", "float32", {"a": [(3,)]}, {"a": [None]})


def test_refusal_works_without_numpy(tmp_path):
    code = (
        "import sys; from fedn_partial.runtime.refusal import write_refusal; write_refusal(sys.argv[1], 'no'); "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "u")]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert np.load(tmp_path / "u")["0"].shape == (0,)
    assert "zipfile" in loaded
    assert not {"numpy", "tensorflow", "keras", "yaml", "psutil", "fedn"} & set(loaded)
