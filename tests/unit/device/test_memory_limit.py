"""A device whose memory runs out while it trains: the kernel kills the request, and an update comes all the same."""

import json
import subprocess
import sys

import numpy as np
import pytest
from cgroups import MemoryGroup, NoControlGroup
from device import Device

from fedn_partial.data.shard import Shard

# Waits until training has begun, then takes memory and holds it: the other program on the device.
HOG = """
import os, sys, time
while not os.path.exists(sys.argv[1]): time.sleep(0.01)
time.sleep(0.3)
held = b"x" * int(sys.argv[2])
time.sleep(600)
"""


def images(count):
    random = np.random.default_rng(1)
    return random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), random.integers(0, 10, count).astype(np.int32)


@pytest.fixture
def device(tmp_path):
    shard = Shard(*images(320), *images(10), tuple("abcdefghij"))
    device = Device(tmp_path, model={"name": "vgg16", "width": 0.5}, shard=shard)
    device.write_model(selection={"selector": "all"}, training={"epochs": 4, "batch_size": 32})
    yield device
    device.process.kill()


def join(limit):
    try:
        return MemoryGroup(limit)
    except NoControlGroup as reason:
        pytest.skip(str(reason))


def test_a_request_killed_for_memory_is_tried_again_with_fewer_layers(device):
    with join(800_000_000) as group:
        device.start_client()
        group.add(device.process.pid)
        device.run("startup")
        hog = subprocess.Popen([sys.executable, "-c", HOG, device.package / ".state/training.json", "440000000"])
        group.add(hog.pid)
        assert device.run("train", "model.npz", "update.npz") == 0
        assert group.kills() >= 1
        told = device.metadata()
        assert 1 <= len(told["layers"]) < 14 and "refused" not in told
        assert f"{len(told['layers'])} of the 14 requested layers: memory" in told["limited"]
        assert "out-of-memory kill" in (device.folder / "client.log").read_text()
        (calibration,) = device.folder.glob("state/calibration-*.json")
        assert json.loads(calibration.read_text())["memory_mb"] < 420
        # Another client, started anew on the same device: it knows what fits, though the other program has gone.
        hog.kill()
        kills = group.kills()
        device.process.kill()
        device.start_client()
        group.add(device.process.pid)
        device.run("startup")
        assert device.run("train", "model.npz", "update.npz") == 0
        again = device.metadata()
        assert len(again["layers"]) < 14 and "lowered after an out-of-memory kill" in again["limited"]
        assert group.kills() == kills


def test_a_small_device_trains_what_fits_and_says_so(device):
    with join(330_000_000) as group:
        device.start_client()
        group.add(device.process.pid)
        device.run("startup")
        assert "TensorFlow is imported in each request" in (device.folder / "client.log").read_text()
        assert device.run("train", "model.npz", "update.npz") == 0
        told = device.metadata()
        assert 1 <= len(told["layers"]) < 14
        assert "of the 14 requested layers: memory" in told["limited"]
        assert group.kills() == 0
        assert told["resources"]["memory_peak_mb"] == pytest.approx(told["predicted_memory_mb"], rel=0.15)
