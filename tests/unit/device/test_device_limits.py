"""Selection within the limits of a device."""

from dataclasses import replace

from fedn_partial.device import device_limits
from fedn_partial.device.planner import Calibration, Planner
from fedn_partial.settings.case import Device, RoundSettings, Training
from fedn_partial.submodel.layers import fingerprint, read_layers
from fedn_partial.submodel.selection import Context

ROUND_SETTINGS = RoundSettings(
    round=1, warmup=False, seed=1, model={}, fingerprint="", base="", selection={}, codec="float32", session_id="s"
)


def test_a_learnt_limit_leaves_the_cheapest_layer(build, tmp_path, monkeypatch):
    """One kill, for whatever reason, must not keep a device out of a small model for good."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(device_limits.cgroup, "machine_memory", lambda: 10**9)
    layers = read_layers(build("lstm_har"))
    name = fingerprint(layers)
    Calibration.load(tmp_path, name, 1000.0).save(memory_mb=50.0)
    told = replace(ROUND_SETTINGS, fingerprint=name, selection={"selector": "all"})
    planner = Planner(layers, Training(), "float32", base_mb=213.0, forked=True, examples=100)
    choice = device_limits.select_within_limits(Device("data", str(tmp_path)), told, Context(1, 1, "c"), planner, 10**9)
    assert len(choice.selection.layers) == 1 and "out-of-memory kill" in choice.selection.limited
