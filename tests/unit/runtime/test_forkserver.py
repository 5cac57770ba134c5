"""The compute package's entry points as FEDn's client runs them: with the fork server, and without."""

import contextlib
import json
import os
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from fedn.utils.helpers.plugins.numpyhelper import Helper

sys.path.insert(0, os.path.dirname(__file__))
from device import MODEL, Device

from fedn_partial import models
from fedn_partial.exchange.decoding import decode
from fedn_partial.submodel.layers import pick, read_layers, tensor_list
from fedn_partial.submodel.update_tensors import shapes, update_tensors


def wait_for(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def processes_of(device) -> list[psutil.Process]:
    """The processes that run in the package: the fork server, and those of a request."""
    running = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(device.package):
                running.append(process)
    return running


def server_of(device) -> psutil.Process:
    """The fork server: it leads a session of its own."""
    (server,) = (process for process in processes_of(device) if os.getsid(process.pid) == process.pid)
    return server


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    device = Device(tmp_path_factory.mktemp("device"))
    device.write_model()
    device.start_client()
    assert device.run("startup") == 0
    yield device
    device.process.kill()


def trained_by(device, codec, weights):
    """Let the device train the model it was given; return what the server makes of its update."""
    assert device.run("train", "model.npz", "update.npz") == 0
    metadata = device.metadata()
    layers = read_layers(models.build(MODEL))
    base = {layer.name: [weights[tensor.index] for tensor in layer.tensors] for layer in layers}
    arrays = Helper().load(str(device.folder / "update.npz"))
    return (
        decode(arrays, metadata, metadata["model"], codec, shapes(update_tensors(layers, "with_layer")), base),
        metadata,
        layers,
    )


def test_training_through_the_server_leaves_an_update_that_decodes(device):
    weights = device.write_model()
    tensors, metadata, layers = trained_by(device, "float32", weights)
    assert list(tensors) == metadata["layers"] and len(tensors) == 2
    trained = tensor_list(pick(layers, metadata["layers"]))
    for tensor, array in zip(trained, [a for arrays in tensors.values() for a in arrays], strict=True):
        if tensor.name.endswith("bias"):
            assert not np.array_equal(array, weights[tensor.index]), f"{tensor.name} did not change"
    assert metadata["num_examples"] == "50"
    assert metadata["client"] == "device-1" and metadata["round"] == 3
    assert metadata["update_bytes"] == (device.folder / "update.npz").stat().st_size


@pytest.mark.parametrize(("codec", "steps"), [("float16", None), ("int8", 127)])
def test_a_coded_update_is_the_plain_one_rounded(device, codec, steps):
    weights = device.write_model()
    plain, _, _ = trained_by(device, "float32", weights)
    device.write_model(codec=codec, session_id=f"with{codec}")
    coded, metadata, layers = trained_by(device, codec, weights)
    assert metadata["codec"] == codec
    for layer in pick(layers, metadata["layers"]):
        for tensor, exact, rounded in zip(layer.tensors, plain[layer.name], coded[layer.name], strict=True):
            if exact.ndim == 1:
                assert exact.tobytes() == rounded.tobytes()
            elif steps:
                step = np.abs(exact - weights[tensor.index]).reshape(-1, exact.shape[-1]).max(axis=0) / steps
                assert (np.abs(exact - rounded) <= step / 2 + 1e-6).all()
                assert (device.folder / f"state/withint8/3/residual-{tensor.index}.npy").exists()
            else:
                np.testing.assert_array_equal(exact.astype(np.float16), rounded)


def test_tensorflow_is_imported_once_and_the_server_does_not_grow(device):
    device.write_model()
    device.run("train", "model.npz", "update.npz")
    server = server_of(device)
    before = server.memory_info().rss
    for _ in range(3):
        device.run("train", "model.npz", "update.npz")
    assert device.metadata()["resources"]["phases"]["import"] < 0.5
    assert server_of(device).pid == server.pid
    assert server.memory_info().rss - before < 5e6
    assert server.children() == []


def test_resources_are_those_of_the_request(device):
    device.write_model()
    device.run("train", "model.npz", "update.npz")
    resources = device.metadata()["resources"]
    assert set(resources["phases"]) == {"load", "import", "trace", "train", "encode"}
    assert 0 < sum(resources["phases"].values()) <= resources["seconds"] + 0.01
    assert resources["cpu_seconds"] > 0.1
    assert 100 < resources["rss_peak_mb"] < 2000
    lines = [json.loads(line) for line in (device.folder / "samples.jsonl").read_text().splitlines()]
    assert {"client", "round", "task", "time", "rss_mb", "ram_used_mb"} <= set(lines[-1])


def test_validation_uses_what_the_last_training_request_said(device):
    device.write_model()
    device.run("train", "model.npz", "update.npz")
    assert device.run("validate", "model.npz", "metrics.json") == 0
    metrics = json.loads((device.folder / "metrics.json").read_text())
    assert 0 <= metrics["accuracy"] <= 1 and metrics["loss"] > 0
    assert metrics["test_examples"] == 10


def test_the_socket_is_for_this_user_only(device):
    state = device.package / ".state"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE((state / "server.sock").stat().st_mode) == 0o600


def test_the_thin_entry_point_imports_neither_numpy_nor_tensorflow(device):
    device.write_model()
    command = [
        sys.executable,
        "-X",
        "importtime",
        "train.py",
        device.folder / "model.npz",
        device.folder / "update.npz",
    ]
    result = subprocess.run(command, cwd=device.package, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "fedn_partial" in imported
    assert not imported & {"numpy", "tensorflow", "keras", "yaml", "psutil"}


REFUSALS = {
    "fingerprint": ({"fingerprint": "0123456789abcdef"}, "fingerprint"),
    "base": ({"base": "0" * 32}, "does not match the digest in the round settings"),
    "model": ({"model": {"name": "lstm_har", "classes": 5}}, "fingerprint"),
    "selector": ({"selection": {"selector": "best"}}, "selector 'best' is unknown"),
    "layer": ({"selection": {"selector": "fixed", "names": ["conv9"]}}, "no layer called 'conv9'"),
    "training": ({"training": {"epochs": 0}}, "epochs must be at least 1, found 0"),
    "codec": ({"codec": "int3"}, "codec must be one of float32, float16, int8, found 'int3'"),
}


@pytest.mark.parametrize(("changes", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_a_request_that_does_not_fit_is_refused_with_an_update_that_says_why(device, changes, reason):
    device.write_model(**changes)
    assert device.run("train", "model.npz", "update.npz") == 0
    metadata = device.metadata()
    assert reason in metadata["refused"]
    assert metadata["num_examples"] == "0" and metadata["layers"] == []
    with np.load(device.folder / "update.npz") as archive:
        assert archive["0"].size == 0


def change(index, function):
    def apply(weights):
        return [function(w) if i == index else w for i, w in enumerate(weights)]

    return apply


MODELS = {
    "NaN": (change(0, lambda w: np.full_like(w, np.nan)), "not finite"),
    "infinity": (change(4, lambda w: np.full_like(w, np.inf)), "not finite"),
    "dtype": (change(0, lambda w: w.astype(np.float64)), "float64"),
    "shape": (change(0, lambda w: w[:, :-1]), "tensor 0"),
    "count": (lambda weights: weights[:-1], "12 tensors"),
}


@pytest.mark.parametrize(("damage", "reason"), MODELS.values(), ids=MODELS)
def test_a_global_model_that_does_not_fit_is_refused(device, damage, reason):
    weights = damage(device.write_model())
    with (device.folder / "model.npz").open("wb") as file:
        np.savez(file, **{str(index): array for index, array in enumerate(weights)})
    device.run("train", "model.npz", "update.npz")
    assert reason in device.metadata()["refused"]
    assert device.run("validate", "model.npz", "none.json") == 1
    assert not (device.folder / "none.json").exists()


def test_a_damaged_model_file_is_refused(device):
    device.write_model()
    (device.folder / "model.npz").write_bytes(b"PK\x03\x04 not quite")
    assert device.run("train", "model.npz", "update.npz") == 0
    assert "not a model" in device.metadata()["refused"]


def test_a_killed_child_is_named_and_the_next_request_works(device):
    device.write_model(training={"epochs": 1000, "batch_size": 1})
    server = server_of(device)
    killer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, psutil, signal, sys, time\n"
            "server = psutil.Process(int(sys.argv[1]))\n"
            "while not server.children(): time.sleep(0.05)\n"
            "time.sleep(1)\n"
            "os.kill(server.children()[0].pid, signal.SIGKILL)\n",
            str(server.pid),
        ]
    )
    assert device.run("train", "model.npz", "update.npz") == 0
    killer.wait()
    assert "SIGKILL" in device.metadata()["refused"]
    device.write_model()
    device.run("train", "model.npz", "update.npz")
    assert "refused" not in device.metadata()


def test_a_killed_server_is_started_again_by_the_next_request(device):
    device.write_model()
    server = server_of(device)
    server.kill()
    server.wait()
    assert device.run("train", "model.npz", "update.npz") == 0
    assert "refused" not in device.metadata()
    again = server_of(device)
    assert again.pid != server.pid
    device.run("train", "model.npz", "update.npz")
    assert device.metadata()["resources"]["phases"]["import"] < 0.5
    assert server_of(device).pid == again.pid


def test_a_server_that_is_killed_during_a_request_is_named_and_started_again(device):
    device.write_model(training={"epochs": 1000, "batch_size": 1})
    server = server_of(device)
    killer = threading.Thread(target=lambda: wait_for(lambda: server.children()) and server.kill(), daemon=True)
    killer.start()
    assert device.run("train", "model.npz", "update.npz") == 0
    killer.join()
    assert "fork server was killed during the request" in device.metadata()["refused"]
    device.write_model()
    device.run("train", "model.npz", "update.npz")
    assert "refused" not in device.metadata() and server_of(device).pid != server.pid


def test_a_server_that_cannot_import_is_not_started_for_every_request(tmp_path):
    device = Device(tmp_path)
    (device.package / "keras.py").write_text("raise ImportError('no Keras here')\n")
    device.write_model()
    device.start_client()
    device.run("startup")
    assert wait_for(lambda: not (device.package / ".state/server.sock").exists(), seconds=60)
    assert device.run("train", "model.npz", "update.npz") == 0
    device.process.kill()
    assert "no Keras here" in device.metadata()["refused"]


@pytest.mark.parametrize("served", [True, False], ids=["fork server", "process of its own"])
def test_a_request_ends_with_the_time_of_its_round(device, served):
    device.write_model(training={"epochs": 1000, "batch_size": 1}, session={"round_timeout": 4})
    server = server_of(device)
    away = device.package / ".state" / "away"
    if not served:
        (device.package / ".state" / "server.sock").rename(away)  # it ends, for the want of its socket
        server.wait()
    started = time.monotonic()
    assert device.run("train", "model.npz", "update.npz") == 0
    assert 4 < time.monotonic() - started < 9
    assert "stopped after 4 s, the round's timeout" in device.metadata()["refused"]
    wanted = [server] if served else []
    assert wait_for(lambda: processes_of(device) == wanted), "the request goes on"
    if not served:
        away.rename(device.package / ".state" / "server.sock")
    device.write_model(session={"round_timeout": 60})
    device.run("train", "model.npz", "update.npz")
    assert "refused" not in device.metadata()
    assert device.run("validate", "model.npz", "metrics.json") == 0


def test_without_a_server_the_same_code_runs_in_the_process_itself(device, tmp_path):
    device.write_model()
    device.run("train", "model.npz", "update.npz")
    with np.load(device.folder / "update.npz") as archive:
        through_server = archive["0"]
    alone = Device(tmp_path)
    alone.write_model()
    (alone.folder / "model.npz").write_bytes((device.folder / "model.npz").read_bytes())
    metadata = (device.folder / "model.npz-metadata").read_text()
    (alone.folder / "model.npz-metadata").write_text(metadata)
    alone.start_client()
    assert alone.run("train", "model.npz", "update.npz") == 0
    alone.process.kill()
    assert alone.metadata()["layers"] == device.metadata()["layers"]
    assert alone.metadata()["resources"]["phases"]["import"] > 0.5
    with np.load(alone.folder / "update.npz") as archive:
        np.testing.assert_allclose(archive["0"], through_server, rtol=1e-5, atol=1e-6)


def test_missing_client_yaml_is_explained(device, monkeypatch):
    device.write_model()
    monkeypatch.delenv("FEDN_PARTIAL_CLIENT", raising=False)
    (device.package / ".state" / "server.sock").rename(device.package / ".state" / "away")
    try:
        command = [sys.executable, "train.py", device.folder / "model.npz", device.folder / "update.npz"]
        subprocess.run(command, cwd=device.package, check=True, capture_output=True)
    finally:
        (device.package / ".state" / "away").rename(device.package / ".state" / "server.sock")
    assert "fedn client start -in client.yaml" in device.metadata()["refused"]


def test_the_server_ends_with_its_client(tmp_path):
    device = Device(tmp_path)
    device.start_client()
    device.run("startup")
    server = server_of(device)
    device.process.kill()
    device.process.wait()
    assert wait_for(lambda: not psutil.pid_exists(server.pid), seconds=30)
    assert not (device.package / ".state" / "server.sock").exists()


def test_what_keras_would_import_where_it_is_installed_stays_out():
    code = (
        "import sys; from fedn_partial.runtime import forkserver; forkserver.import_tensorflow(); "
        "print(*(name for name, module in sys.modules.items() if module))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "tensorflow" in loaded and not {"matplotlib", "PIL", "scipy", "sklearn"} & set(loaded)
