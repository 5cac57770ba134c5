"""State of a client through whole rounds: failing, stopped, and on a full disk, on devices and in the simulator."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from device import Device

from fedn_partial.client.simulation import workers
from fedn_partial.custom import modules
from fedn_partial.data.shard import Shard
from fedn_partial.runtime import task
from fedn_partial.runtime.client_state import ClientState
from fedn_partial.settings.case import RoundSettings
from fedn_partial.settings.schema import parse

NORMALISED = {"name": "vgg16", "width": 0.015625, "classes": 4}
DENSE = {"selector": "fixed", "names": ["dense0", "dense1", "dense2", "dense3", "output"]}


def files(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def images(count):
    random = np.random.default_rng(1)
    return random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), random.integers(0, 4, count).astype(np.int32)


class Both:
    """A device in this process and a simulated client of the same name, with the same shard."""

    def __init__(self, folder: Path, monkeypatch, model: dict, shard: Shard | None = None):
        self.device = Device(folder, model=model, shard=shard)
        self.folder = folder
        monkeypatch.setenv("FEDN_PARTIAL_CLIENT", str(folder / "client.yaml"))
        monkeypatch.chdir(self.device.package)

    def settings(self, number: int, **changes) -> RoundSettings:
        self.device.write_model(round=number, **changes)
        return parse(RoundSettings, json.loads((self.folder / "model.npz-metadata").read_text()), "test")

    def on_device(self) -> tuple[bytes, dict]:
        """Return the update and its metadata."""
        model, update = str(self.folder / "model.npz"), str(self.folder / "update.npz")
        task.run(task.Request("train", model, update, os.getpid(), None))
        return Path(update).read_bytes(), self.device.metadata()

    def task(self, settings: RoundSettings, folder: Path) -> workers.Task:
        folder.mkdir(exist_ok=True)
        return workers.Task(
            client="device-1",
            settings=settings,
            model=str(self.folder / "model.npz"),
            shard=str(self.folder / "data"),
            state=str(folder / "state"),
            update=str(folder / "update.npz"),
        )

    def simulated(self, settings: RoundSettings, folder: Path) -> bytes:
        refusal = workers.train(self.task(settings, folder))
        assert refusal is None, refusal
        return (folder / "update.npz").read_bytes()


def test_device_and_simulator_send_the_same_when_a_round_failed(tmp_path, monkeypatch):
    both = Both(tmp_path, monkeypatch, NORMALISED, Shard(*images(40), *images(10), tuple("abcd")))
    options = {"codec": "int8", "batchnorm_statistics": "local", "selection": {"selector": "random", "layers": 8}}
    simulated, updates, write = tmp_path / "simulated", {}, ClientState.write

    def fails(state, kind, tensor, array):
        write(state, kind, tensor, array)
        if len(state._written) == 32:  # after the statistics: the residual of the second kernel or so
            raise RuntimeError("in the middle")

    for number in (1, 2, 3):
        settings = both.settings(number, **options)
        if number == 2:
            before = files(tmp_path / "state/session1"), files(simulated / "state/session1")
            with monkeypatch.context() as patch:
                patch.setattr(ClientState, "write", fails)
                _, metadata = both.on_device()
                refusal = workers.train(both.task(settings, simulated))
            assert metadata["refused"] == refusal == "RuntimeError: in the middle"
            assert (files(tmp_path / "state/session1"), files(simulated / "state/session1")) == before
        else:
            updates[number], metadata = both.on_device()
            assert "refused" not in metadata, metadata
            assert both.simulated(settings, simulated) == updates[number]
    state = files(tmp_path / "state/session1")
    assert state == files(simulated / "state/session1")
    kinds = {name.partition("-")[0] for name in state}
    assert kinds == {f"{number}/{kind}" for number in (1, 3) for kind in ("own", "residual")}
    without = both.simulated(settings, tmp_path / "fresh")
    assert without != updates[3], "the state of round 1 is part of the update of round 3"
    tested, fresh = (workers.test(both.task(settings, folder)) for folder in (simulated, tmp_path / "nothing"))
    assert tested["model_digest"] == fresh["model_digest"] and tested["loss"] != fresh["loss"]


@pytest.mark.parametrize("left", [72_000, 48_000, 24_000])
def test_a_full_disk_costs_the_state_and_not_the_round(full_disk, tmp_path, monkeypatch, left, capfd):
    """Of 256 kB the state takes 72 and the update 20: the disk is full while it writes one or the other."""
    both = Both(tmp_path, monkeypatch, {"name": "lstm_har", "classes": 4})
    updates = {}
    for folder in (tmp_path / "roomy", full_disk):
        both.simulated(both.settings(1, codec="int8", selection=DENSE), folder)
        (folder / "update.npz").unlink()
        if folder == full_disk:
            stat = os.statvfs(folder)
            (folder / "filler").write_bytes(bytes(stat.f_bavail * stat.f_frsize - left))
        updates[folder] = both.simulated(both.settings(2, codec="int8", selection=DENSE), folder)
    assert updates[full_disk] == updates[tmp_path / "roomy"]
    assert json.loads((full_disk / "update.npz-metadata").read_text())["round"] == 2
    assert "rounding errors of this update are lost" in capfd.readouterr().err
    assert list(files(full_disk / "state")) == []
    assert len(files(tmp_path / "roomy/state")) == 10
    (full_disk / "filler").unlink()
    settings = both.settings(3, codec="int8", selection=DENSE)
    assert both.simulated(settings, full_disk) == both.simulated(settings, tmp_path / "fresh")


def test_an_update_that_does_not_fit_the_disk_leaves_the_state_before(full_disk, tmp_path, monkeypatch):
    both = Both(tmp_path, monkeypatch, {"name": "lstm_har", "classes": 4})
    both.simulated(both.settings(1, codec="int8", selection=DENSE), full_disk)
    (full_disk / "update.npz").unlink()
    before = files(full_disk / "state")
    stat = os.statvfs(full_disk)
    (full_disk / "filler").write_bytes(bytes(stat.f_bavail * stat.f_frsize - 8192))
    refusal = workers.train(both.task(both.settings(2, codec="int8", selection=DENSE), full_disk))
    assert "update.npz cannot be written: No space left on device" in refusal
    assert files(full_disk / "state") == before


CODEC = """
import time
from pathlib import Path

import numpy as np

from fedn_partial.exchange.codecs import Codec


class Half(Codec):
    kernels = 0

    def encode(self, change):
        self.kernels += 1
        if self.kernels == 2 and Path("raise").exists():
            raise ValueError("second kernel")
        if self.kernels == 2 and Path("stall").exists():
            time.sleep(600)
        return change.astype("<f2").tobytes()

    def decode(self, data, shape):
        return np.frombuffer(data, "<f2").astype(np.float32).reshape(shape)

    def max_bytes(self, shape):
        return 2 * int(np.prod(shape))
"""


@pytest.fixture
def coded(tmp_path):
    """A device, with the processes of FEDn's client, and a codec of its own."""
    (tmp_path / "custom").mkdir()
    (tmp_path / "custom/my_codecs.py").write_text(CODEC)
    modules.use(tmp_path / "custom")
    try:
        device = Device(tmp_path, custom=modules.active())
    finally:
        modules.use(None)
    device.start_client()
    device.run("startup")
    yield device
    device.process.kill()


def test_a_codec_that_raises_and_a_round_that_is_stopped_leave_the_state_before(coded):
    def train(number, **changes):
        coded.write_model(round=number, codec="my_codecs:Half", **changes)
        assert coded.run("train", "model.npz", "update.npz") == 0
        return (coded.folder / "update.npz").read_bytes(), coded.metadata()

    state = coded.folder / "state/session1"
    _, metadata = train(1)
    assert "refused" not in metadata, metadata
    before = files(state / "1")
    update, _ = train(2)
    after = files(state)
    (coded.package / "raise").touch()
    assert train(2)[1]["refused"].endswith("ValueError: second kernel")
    assert [path.name for path in state.iterdir()] == ["1"] and files(state / "1") == before
    (coded.package / "raise").unlink()
    (coded.package / "stall").touch()
    started = time.monotonic()
    refused = train(2, session={"round_timeout": 6})[1]["refused"]
    assert refused.startswith("stopped after 6 s") and time.monotonic() - started < 30
    assert sorted(path.name for path in state.iterdir()) == ["1", "2.new"] and files(state / "1") == before
    (coded.package / "stall").unlink()
    again, metadata = train(2)
    assert "refused" not in metadata and again == update and files(state) == after
    assert (coded.folder / "state" / f"calibration-{metadata['model']}.json").exists()
