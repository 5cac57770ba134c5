"""Server optimizer momentum in FEDn's own hooks service, with heavy ball written out in NumPy as oracle."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from server_functions.server_oracles import assert_close, assert_same_bits, log_lines, merged_by_hand
from server_functions.server_worlds import client, made

from fedn_partial.exchange.state import MAX_AGE
from fedn_partial.settings.case import ServerOptimizerSettings, Session

BETA, RATE = 0.8, 0.5
MOMENTUM = ServerOptimizerSettings("momentum", beta=BETA, learning_rate=RATE)
SESSION = (
    [("a", ["conv0", "dense"], 30), ("b", ["dense"], 5), ("c", ["dense"], 120)],
    [("a", ["conv0"], 30), ("b", ["conv0"], 5)],
    [("a", None, 30), ("b", None, 5), ("c", None, 120)],
    [("a", ["conv1"], 7)],
    [("a", None, 30), ("b", ["dense"], 5)],
)


def stepped(world, clients, model, velocity, rule="all_clients"):
    """Return the model after v <- beta v + D, W += rate v, and change `velocity`, {index: float64 array}."""
    merged = merged_by_hand(world, clients, rule, model)
    for layer in world.layers:
        for tensor in layer.tensors if any(layer.name in one.layers for one in clients) else ():
            if not tensor.statistic:
                old = model[tensor.index].astype(np.float64)
                velocity[tensor.index] = BETA * velocity.get(tensor.index, 0) + merged[tensor.index] - old
                merged[tensor.index] = old + RATE * velocity[tensor.index]
    return merged


def senders(world, number):
    return [client(world, *one, seed=10 * number + n) for n, one in enumerate(SESSION[number])]


def assert_near(model, expected):
    assert model is not None, "FEDn failed the round"
    for array, wanted in zip(model, expected, strict=True):
        np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-6)


def files(suffix="") -> list[str]:
    return sorted(
        name for name in os.listdir(tempfile.gettempdir()) if name.startswith("fedn-partial-session" + suffix)
    )


@pytest.mark.parametrize("rule", ["all_clients", "contributors"])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_session_follows_the_formula(restarts, rule, normalised, start, send):
    combiner = start(normalised, merge=rule, server_optimizer=MOMENTUM, session=Session(rounds=len(SESSION) + 1))
    model, velocity = normalised.model, {}
    for number in range(len(SESSION)):
        clients = senders(normalised, number)
        expected = stepped(normalised, clients, model, velocity, rule)
        result = combiner.round(model, send(normalised, *clients, base=model))
        assert_near(result.model, expected)
        unsent = {layer.name for layer in normalised.layers} - {name for one in clients for name in one.layers}
        indices = [tensor.index for name in unsent for tensor in normalised.layer(name).tensors]
        assert_same_bits([result.model[index] for index in indices], [model[index] for index in indices])
        assert not result.settings["previous"].get("notes")
        model = result.model
        if restarts:
            combiner.restart_hooks()
    assert len(files()) == 3  # the state, and the arrays of the last two models


def test_statistics_are_not_accelerated(normalised, start, send):
    models, model = {}, normalised.model
    for optimizer in (MOMENTUM, ServerOptimizerSettings()):
        combiner = start(normalised, key=optimizer.name, server_optimizer=optimizer)
        for number in (2, 4):
            clients = senders(normalised, number)
            models[optimizer.name, number] = combiner.round(model, send(normalised, *clients)).model
    for name in ("conv0_bn/moving_mean", "conv0_bn/moving_variance"):
        index = normalised.tensor(name)
        for number in (2, 4):
            assert_same_bits([models["momentum", number][index]], [models["none", number][index]])


def test_momentum_of_0_is_none_to_rounding(normalised, start, send):
    clients = senders(normalised, 0)
    combiner = start(normalised, server_optimizer=ServerOptimizerSettings("momentum", beta=0.0))
    result = combiner.round(normalised.model, send(normalised, *clients))
    assert_close(result.model, merged_by_hand(normalised, clients, "all_clients"))


def test_a_round_that_is_not_committed_does_not_count(normalised, start, send):
    """FEDn repeats it from the same model when its object store was away."""
    combiner = start(normalised, server_optimizer=MOMENTUM)
    velocity = {}
    first = senders(normalised, 0)
    stepped(normalised, first, normalised.model, velocity)
    model = combiner.round(normalised.model, send(normalised, *first)).model
    combiner.round(model, send(normalised, *senders(normalised, 1), base=model))
    clients = senders(normalised, 2)
    result = combiner.round(model, send(normalised, *clients, base=model))
    assert_near(result.model, stepped(normalised, clients, model, velocity))


@pytest.mark.parametrize("first", [True, False])
def test_a_kill_between_arrays_and_state_leaves_the_round_before(first, normalised, start, send):
    combiner = start(normalised, server_optimizer=MOMENTUM)
    model, velocity, state = normalised.model, {}, Path(tempfile.gettempdir()) / "fedn-partial-session.json"
    if not first:
        clients = senders(normalised, 0)
        expected = stepped(normalised, clients, model, velocity)
        model = combiner.round(model, send(normalised, *clients, base=model)).model
        assert_near(model, expected)
    before = {}
    combiner.round(
        model,
        send(normalised, *senders(normalised, 1), base=model),
        during=lambda: before.update({path: path.read_bytes() for path in state.parent.glob("fedn-partial-session*")}),
    )
    for path, content in before.items():  # the arrays are new, the state is that of the begun round
        path.write_bytes(content)
    combiner.restart_hooks()
    clients = senders(normalised, 2)
    result = combiner.round(model, send(normalised, *clients, base=model))
    assert_near(result.model, stepped(normalised, clients, model, velocity))
    digests = [name.removeprefix("fedn-partial-session-").removesuffix(".npz") for name in files("-")]
    assert digests == sorted(json.loads(state.read_text())["arrays"])


@pytest.mark.parametrize("damage", ["removed", "cut off", "a bit", "text"])
def test_arrays_that_are_lost_begin_again_and_the_operator_is_told(damage, normalised, start, send, caplog):
    combiner = start(normalised, server_optimizer=MOMENTUM)
    model = combiner.round(normalised.model, send(normalised, *senders(normalised, 2))).model
    (name,) = files("-")
    path = Path(tempfile.gettempdir()) / name
    content = bytearray(path.read_bytes())
    if damage == "a bit":
        content[len(content) // 3] ^= 1
    path.write_bytes({"cut off": content[:-100], "text": b"text"}.get(damage, content))
    if damage == "removed":
        path.unlink()
    clients = senders(normalised, 4)
    result = combiner.round(model, send(normalised, *clients, base=model))
    assert_near(result.model, stepped(normalised, clients, model, {}))
    (note,) = combiner.round(result.model, []).settings["previous"]["notes"]
    assert note == "the state of the server optimizer is lost; it begins again"
    assert log_lines(caplog, "is missing or damaged")


def test_arrays_that_do_not_fit_the_disk_are_a_note(normalised, start, send, monkeypatch, full_disk):
    monkeypatch.setattr(tempfile, "tempdir", str(full_disk))
    functions = made(normalised, server_optimizer=MOMENTUM)
    functions.state["known"] = ["base", "new"]
    functions.keep_arrays({"0": np.zeros(10**6, np.float32)})
    (note,) = functions.notes
    assert note.startswith("the state of the server optimizer cannot be saved and begins again: ")
    assert functions.state["arrays"] == []
    assert sorted(path.suffix for path in full_disk.iterdir()) == [""]  # nothing half written fills the disk


def test_the_files_of_a_session_go_when_it_is_over(normalised, start, send):
    folder = Path(tempfile.gettempdir())
    (folder / "fedn-partial-running.json").write_text(json.dumps({"over": False}))
    (folder / "fedn-partial-running-0a.npz").touch()
    for name in ("fedn-partial-dead.json", "fedn-partial-dead-0a.npz", "other-dead.json"):
        (folder / name).write_text("damaged")
        os.utime(folder / name, (0, time.time() - MAX_AGE - 60))
    combiner = start(normalised, server_optimizer=MOMENTUM, session=Session(rounds=2))
    model = combiner.round(normalised.model, send(normalised, *senders(normalised, 0))).model
    assert len(files()) == 2
    combiner.round(model, send(normalised, *senders(normalised, 0), base=model))
    assert files() == ["fedn-partial-session.json"]
    combiner.restart_hooks()  # the session is still known to be over
    assert combiner.round(normalised.model, []).settings == {}
    assert files() == ["fedn-partial-session.json"]
    start(normalised, key="another").round(normalised.model, [])
    left = sorted(path.name for path in folder.glob("*.json")) + [path.name for path in folder.glob("fedn*.npz")]
    assert left == [
        "fedn-partial-another.json",
        "fedn-partial-running.json",
        "other-dead.json",
        "fedn-partial-running-0a.npz",
    ]
