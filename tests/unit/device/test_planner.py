"""Predicting what a selection costs on a device, and remembering what a device learnt about itself."""

import json
import math

import numpy as np
import pytest
from device import Device
from residual_files import Residual

from fedn_partial.data.shard import Shard
from fedn_partial.device import costs
from fedn_partial.device.planner import Calibration, Estimate, Limits, Planner
from fedn_partial.exchange.encoding import encode
from fedn_partial.settings.case import CODECS, Training
from fedn_partial.submodel.layers import read_layers
from fedn_partial.submodel.selection import Context, Uniform, select_layers
from fedn_partial.training.terms.proximal import Proximal


@pytest.fixture
def layers(build):
    return read_layers(build("vgg16"))


def planner(layers, **changes):
    given = {"training": Training(), "codec": "float32", "base_mb": 250.0, "forked": False, "examples": 640}
    return Planner(layers=layers, **given | changes)


def test_more_layers_take_more_of_everything(layers):
    plan = planner(layers, fixed_seconds=2.0, seconds_per_gmac=0.01)
    few, many = plan.estimate(layers[9:11]), plan.estimate(layers[8:])
    assert few.memory_mb < many.memory_mb and few.upload_mb < many.upload_mb and few.seconds < many.seconds


def test_memory_is_the_base_and_what_training_needs(layers):
    few, all_ = (planner(layers).estimate(selected).memory_mb for selected in (layers[-1:], layers))
    trained = costs.state_bytes(layers, layers, Training()) + costs.activation_bytes(layers, layers, 32)
    little = costs.state_bytes(layers, layers[-1:], Training()) + costs.activation_bytes(layers, layers[-1:], 32)
    assert all_ - few == pytest.approx((trained - little) / 1e6)
    assert 250 + little / 1e6 < few < 350 + little / 1e6


def test_memory_counts_the_state_of_step_terms(layers):
    plain, proximal = (planner(layers, terms=terms).estimate(layers) for terms in ((), (Proximal(0.1),)))
    assert proximal.memory_mb - plain.memory_mb == pytest.approx(sum(layer.nbytes for layer in layers) / 1e6)
    assert proximal.upload_mb == plain.upload_mb


def test_a_child_of_the_fork_server_takes_more(layers):
    assert planner(layers, forked=True).estimate(layers).memory_mb > planner(layers).estimate(layers).memory_mb


@pytest.mark.parametrize("codec", CODECS)
def test_upload_is_at_most_what_is_predicted_and_not_much_less(layers, tmp_path, codec):
    """The prediction keeps a device's upload_mb: it may not be exceeded, not even by small layers."""
    random = np.random.default_rng(1)
    for selected in (layers[-1:], layers[:1], layers[3:6]):
        base = [np.zeros(tensor.shape, np.float32) for layer in selected for tensor in layer.tensors]
        values = [random.normal(size=array.shape).astype(np.float32) for array in base]
        kept = [Residual(tmp_path / f"{index}.npy") for index in range(len(base))]
        encode(str(tmp_path / "update"), values, codec, base, kept)
        sent = (tmp_path / "update").stat().st_size + 1600  # the message, as it was measured
        predicted = 1e6 * planner(layers, codec=codec).estimate(selected).upload_mb
        assert 0.7 * predicted < sent < predicted
        for path in tmp_path.glob("*.npy"):
            path.unlink()


def test_seconds_are_those_of_the_last_round_scaled_by_the_operations(layers):
    plan = planner(layers, fixed_seconds=2.0, seconds_per_gmac=0.01)
    assert plan.estimate(layers).seconds == pytest.approx(2.0 + 0.01 * 640 * 0.9378, rel=1e-3)
    assert planner(layers).estimate(layers).seconds is None


@pytest.mark.parametrize(
    ("limits", "within"),
    [
        (Limits(), True),
        (Limits(memory_mb=400, upload_mb=10, seconds=5), True),
        (Limits(memory_mb=399), False),
        (Limits(upload_mb=9.9), False),
        (Limits(seconds=4.9), False),
    ],
)
def test_estimate_within_limits(limits, within):
    assert Estimate(memory_mb=400, upload_mb=10, seconds=5).within(limits) is within


def test_unknown_seconds_are_not_within_a_limit_of_seconds():
    assert Estimate(1, 1, None).within(Limits(memory_mb=2))
    assert not Estimate(1, 1, None).within(Limits(seconds=100))


def test_a_single_layer_is_tried_however_slow_the_device_was(layers):
    slow = planner(layers, fixed_seconds=100.0, seconds_per_gmac=1.0)
    assert slow.fits(layers[:1], Limits(seconds=10)) and not slow.fits(layers[:2], Limits(seconds=10))
    assert not slow.fits(layers[:1], Limits(seconds=10, memory_mb=10))


def test_calibration_that_cannot_be_written_costs_no_round(tmp_path):
    (tmp_path / "file").write_text("in the way")
    known = Calibration.load(tmp_path / "file", "f", 1.0).after_kill(predicted_mb=600, base_mb=200)
    assert known.memory_mb == 500


def test_the_lower_limit_holds():
    assert Limits(memory_mb=5, upload_mb=3).and_(Limits(memory_mb=4, seconds=2)) == Limits(4, 3, 2)


def test_calibration_outlives_a_restart_but_not_another_machine(tmp_path):
    Calibration.load(tmp_path, "f", 1000.0).save(seconds_per_gmac=0.5).after_kill(predicted_mb=600, base_mb=200)
    known = Calibration.load(tmp_path, "f", 1000.0)
    assert (known.memory_mb, known.seconds_per_gmac) == (200 + 0.75 * 400, 0.5)
    assert Calibration.load(tmp_path, "another model", 1000.0).memory_mb is None
    other = Calibration.load(tmp_path, "f", 2000.0)
    assert (other.memory_mb, other.seconds_per_gmac) == (None, 0.5)


def test_a_calibration_of_an_earlier_version_is_read_from_its_folder_and_moved(tmp_path):
    old, new = tmp_path / "calibration-f.json", tmp_path / "state" / "calibration-f.json"
    Calibration.load(tmp_path, "f", 1000.0).save(seconds_per_gmac=0.5, memory_mb=300.0)
    read = Calibration.load(tmp_path / "state", "f", 1000.0, tmp_path)
    assert (read.memory_mb, read.seconds_per_gmac) == (300, 0.5)
    read.save(fixed_seconds=2.0)
    assert new.exists() and not old.exists()
    read = Calibration.load(tmp_path / "state", "f", 1000.0, tmp_path)
    assert (read.memory_mb, read.fixed_seconds) == (300, 2)
    new.write_text("damaged")  # it counts, not an older one
    Calibration.load(tmp_path, "f", 1000.0).save(memory_mb=300.0)
    assert Calibration.load(tmp_path / "state", "f", 1000.0, tmp_path).memory_mb is None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"memory_mb": "much"}', "null", "[" * 100_000])
def test_damaged_calibration_counts_as_none(tmp_path, content):
    path = tmp_path / "calibration-f.json"
    path.write_text(content)
    assert Calibration.load(tmp_path, "f", 1.0) == Calibration(machine_mb=1.0)
    for value in (-5, math.nan, math.inf, 10**400):
        values = {"memory_mb": value, "machine_mb": 1.0, "fixed_seconds": 1.0, "seconds_per_gmac": 1.0}
        path.write_text(json.dumps(values))
        assert Calibration.load(tmp_path, "f", 1.0) == Calibration(machine_mb=1.0)


def made_up(model, count):
    random = np.random.default_rng(1)
    shape = (count, *model.input.shape[1:])
    x = {
        3: lambda: random.integers(0, 256, shape, dtype=np.uint8),
        2: lambda: random.random(shape, dtype=np.float32),
        1: lambda: random.integers(0, 20000, shape).astype(np.int32),
    }[len(shape) - 1]()
    return x, random.integers(0, 2, count).astype(np.int32)


@pytest.mark.parametrize("name", ["vgg16", "lstm_har", "text_cnn"])
def test_predicted_memory_is_what_the_monitor_then_measures(build, tmp_path, name):
    """Within 15 %, for the fewest layers, half of them and all; a process stands for FEDn's client."""
    model = build(name)
    layers = read_layers(model)
    shard = Shard(*made_up(model, 96), *made_up(model, 8), ("a", "b"))
    device = Device(tmp_path, model={"name": name}, shard=shard)
    device.write_model(training={"epochs": 1, "batch_size": 32})
    device.start_client()
    try:
        device.run("startup")
        for number in (1, len(layers) // 2, len(layers)):
            device.choose_layers([layer.name for layer in select_layers(Uniform(number), layers, Context(1, 1, "c"))])
            assert device.run("train", "model.npz", "update.npz") == 0
            told = device.metadata()
            assert len(told["layers"]) == number
            assert told["predicted_memory_mb"] == pytest.approx(told["resources"]["memory_peak_mb"], rel=0.15)
    finally:
        device.process.kill()
