"""Unreadable files and interrupted rounds in FEDn's own hooks service; see hooks_harness."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from server_functions.hooks_harness import Upload, npz
from server_functions.server_oracles import assert_close, log_lines, merged_by_hand
from server_functions.server_worlds import PROVIDED, client, with_metadata


def pickled(upload: Upload) -> bytes:
    file = BytesIO()
    np.savez(file, **{"0": np.array([{"a": 1}, None], dtype=object)})
    return file.getvalue()


def wrongly_named(upload: Upload) -> bytes:
    file = BytesIO()
    np.savez(file, weights=np.load(BytesIO(upload.data))["0"])
    return file.getvalue()


# Files that FEDn's numpyhelper cannot load, so that its hooks service raises before the server functions see them.
UNREADABLE = {
    "not a zip": lambda upload: b"<html>502 Bad Gateway</html>" * 100,
    "nothing": lambda upload: b"",
    "half": lambda upload: upload.data[: len(upload.data) // 2],
    "damaged": lambda upload: (
        upload.data[:300] + bytes(byte ^ 255 for byte in upload.data[300:340]) + upload.data[340:]
    ),
    "pickled": pickled,
    "wrongly named": wrongly_named,
}


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_unreadable_file_costs_no_other_client_and_no_other_round(kind, place, normalised, start, send, caplog):
    """FEDn's log has the reason, but no log says which client: the server functions are not even called."""
    a, b, c = (
        client(normalised, *one) for one in (("a", ["conv0"], 30), ("b", ["conv0", "dense"], 70), ("c", None, 2))
    )
    uploads = send(normalised, a, c)
    (bad,) = send(normalised, b)
    uploads.insert(place, Upload(bad.client_id, UNREADABLE[kind](bad), bad.metadata))
    combiner = start(normalised)
    result = combiner.round(normalised.model, uploads)
    assert_close(result.model, merged_by_hand(normalised, [a, c], "all_clients"))
    assert len(log_lines(caplog, "store_model failed")) == 1
    assert combiner.provided_functions() == PROVIDED
    following = combiner.round(result.model, send(normalised, a, b, c, base=result.model))
    assert following.settings["previous"]["merged"] == ["id-a", "id-c"]
    assert_close(following.model, merged_by_hand(normalised, [a, b, c], "all_clients", model=result.model))
    assert log_lines(caplog, "skipped the update of") == []


def test_a_good_update_after_an_unreadable_one_in_the_same_round_is_not_mispaired(normalised, start, send, caplog):
    """FEDn keeps the metadata of the unreadable one and pairs them with those of the next: nothing to merge."""
    a, b = client(normalised, "a", ["conv0"], 30), client(normalised, "b", ["conv0", "dense"], 70)
    good, bad = send(normalised, a, b)
    (late,) = send(normalised, client(normalised, "b", ["conv1"], 50))
    combiner = start(normalised)
    result = combiner.round(normalised.model, [Upload(late.client_id, b"", late.metadata), bad, good])
    assert_close(result.model, merged_by_hand(normalised, [a], "all_clients"))
    (line,) = log_lines(caplog, "skipped the update of b: ")
    assert "is not a model with its metadata" in line
    following = combiner.round(result.model, send(normalised, a, b, base=result.model))
    assert_close(following.model, merged_by_hand(normalised, [a, b], "all_clients", model=result.model))


def test_values_left_by_an_interrupted_round_are_not_merged_under_new_metadata(normalised, start, send, caplog):
    """As after a restart of the hooks process between a client's metadata and its model: same layers, same base."""
    a, b = client(normalised, "a", ["conv0"], 30), client(normalised, "b", ["dense"], 70)
    (old,) = send(normalised, client(normalised, "b", ["dense"], 70, seed=5))
    combiner = start(normalised)
    combiner.store(old.client_id, old.data)
    result = combiner.round(normalised.model, send(normalised, a, b))
    assert_close(result.model, merged_by_hand(normalised, [a], "all_clients"))
    (line,) = log_lines(caplog, "skipped the update of b: ")
    assert "checksum" in line


def test_what_an_interrupted_round_had_merged_is_forgotten(normalised, start, send):
    """As when the combiner dies before it asks for the new model."""
    combiner = start(normalised)
    combiner.provided_functions()
    old = with_metadata(session="session", round=1)(
        *send(normalised, client(normalised, "a", ["conv0", "dense"], 50, seed=5))
    )
    combiner.hooks.server_functions.client_selection(["id-a"])
    combiner.hooks.server_functions.client_settings(normalised.model)
    combiner.store("global_model", npz(normalised.model))
    combiner.store(old.client_id, old.data, old.metadata)
    assert combiner.hooks.server_functions.merged == ["id-a"]
    clients = [client(normalised, "a", ["conv0"], 30), client(normalised, "b", ["conv0", "conv1"], 70)]
    result = combiner.round(normalised.model, send(normalised, *clients))
    assert_close(result.model, merged_by_hand(normalised, clients, "all_clients"))
