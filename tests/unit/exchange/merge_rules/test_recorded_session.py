"""A session of three rounds for each merge rule gives the models that were recorded before the rules were split up."""

from __future__ import annotations

import pytest
from server_functions.server_worlds import client

from fedn_partial.exchange import wire

ROUNDS = (
    [("a", ["conv0", "dense"], 30), ("b", ["conv0", "conv1"], 5), ("c", ["conv0"], 120)],
    [("a", None, 30), ("b", None, 5), ("c", None, 120)],
    [("a", ["conv1"], 30), ("b", ["conv0"], 5)],
)
CODECS = ("float32", "float16", "int8")
RECORDED = {  # digests of the last model, with each codec
    "all_clients with_layer": ("fa16a5c776e7", "5649069e6b70", "cc036b99f7c7"),
    "all_clients always": ("50034a988549", "8d6254bfadea", "d74fdc42bfa8"),
    "all_clients local": ("0f135095c2ba", "ae00d1d830a9", "e4685f126c62"),
    "contributors with_layer": ("ee697d9350fa", "e827c50ecd5a", "48715e2c7ad3"),
    "contributors always": ("bc633eabb130", "d398a194e63e", "d2f8e3aaa400"),
    "contributors local": ("107f8140cf5c", "5c5f656b92ca", "0b4272171b09"),
    "shrunk with_layer": ("bc7574603421", "f6cf6b3dd189", "fbf675333326"),
    "shrunk always": ("adf62d9df8e3", "3054c110a80d", "7fa189efa390"),
    "shrunk local": ("dc1711941ca9", "f0f096235c30", "f376c4680a64"),
    "inverse_probability with_layer": ("b942f03ff421", "771d10d87e38", "fbc51237cc7e"),
    "inverse_probability always": ("02f6171f0b01", "8bbeafe913f3", "841f11e96caa"),
    "inverse_probability local": ("15f75f5f26d3", "9fd6eeca505b", "2d666bfaf24b"),
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("session", RECORDED)
def test_a_session_gives_the_recorded_models(session, codec, normalised, start, send):
    rule, statistics = session.split()
    combiner = start(normalised, merge=rule, batchnorm_statistics=statistics, codec=codec)
    model = normalised.model
    for number, trained in enumerate(ROUNDS):
        clients = [client(normalised, *one, seed=10 * number + index) for index, one in enumerate(trained)]
        model = combiner.round(model, send(normalised, *clients, base=model, codec=codec, statistics=statistics)).model
    assert wire.digest(model)[:12] == RECORDED[session][CODECS.index(codec)]
