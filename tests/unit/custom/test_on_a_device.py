"""Custom modules on a device: the package's entry points, run as FEDn's client runs them."""

import numpy as np
import pytest
from device import Device

from fedn_partial.custom import modules
from fedn_partial.exchange import wire

MODELS = """
    import keras


    def small(*, units: int, classes: int = 4) -> keras.Model:
        return keras.Sequential([
            keras.Input((1, 36)),
            keras.layers.Flatten(),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dense(classes, activation="softmax"),
        ])
"""
SELECTORS = """
    from dataclasses import dataclass

    from fedn_partial.submodel.selection import Selector


    @dataclass(frozen=True)
    class Last(Selector):
        def select(self, layers, context):
            return [layers[-1].name]


    @dataclass(frozen=True)
    class Fails(Selector):
        def select(self, layers, context):
            return layers[context.round + 7]
"""
CODECS = """
    import numpy as np

    from fedn_partial.exchange.codecs import Codec


    class Doubles(Codec):
        def encode(self, change):
            return change.astype("<f8").tobytes()

        def decode(self, data, shape):
            return np.frombuffer(data, "<f8").reshape(shape)

        def max_bytes(self, shape):
            return 8 * int(np.prod(shape))
"""


@pytest.fixture
def device(custom, tmp_path):
    custom(my_models=MODELS, my_selectors=SELECTORS, my_codecs=CODECS)
    device = Device(tmp_path, model={"name": "my_models:small", "units": 5}, custom=modules.active())
    device.start_client()
    device.run("startup")
    yield device
    device.process.kill()


def test_a_device_trains_with_custom_modules_and_refuses_all_others(device):
    weights = device.write_model(selection={"selector": "my_selectors:Last"}, codec="my_codecs:Doubles")
    assert device.run("train", "model.npz", "update.npz") == 0
    told = device.metadata()
    assert told["layers"] == ["dense_1"] and told["codec"] == "my_codecs:Doubles", told
    with np.load(device.folder / "update.npz") as archive:
        exact, coded = archive["0"], archive["1"]
    assert told["checksum"] == wire.checksum(coded, wire.checksum(exact))
    change = np.frombuffer(coded[4:].tobytes(), "<f8")
    assert exact.shape == weights[3].shape and change.size == weights[2].size and np.abs(change).max() > 0
    assert (device.folder / "state" / "session1" / "3" / "residual-2.npy").exists()

    # What a server may send to make a device run something else
    (device.package / "evil.py").write_text("open('imported', 'w')\nclass Evil:\n    pass\n")
    (device.package / "custom_modules" / "evil2.py").write_text("open('imported', 'w')\n")
    for changes, reason in (
        ({"selection": {"selector": "os:system"}}, "selection: selector: module 'os' is not allowed. The modules in"),
        ({"selection": {"selector": "evil:Evil"}}, "module 'evil' is not allowed"),
        ({"codec": "evil2:Evil"}, "settings from the server: codec: module 'evil2' is not allowed"),
        ({"model": {"name": "subprocess:run"}}, "model: name: module 'subprocess' is not allowed"),
        ({"selection": {"selector": "my_selectors:Fails"}}, "my_selectors.py, line 15: IndexError: list index out of"),
    ):
        device.write_model(**changes)
        assert device.run("train", "model.npz", "update.npz") == 0
        assert reason in device.metadata()["refused"]
        assert "are: my_codecs, my_models, my_selectors" in device.metadata()["refused"] or "line 15" in reason
    assert not list(device.folder.rglob("imported"))
