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
    "all_clients with_layer": ("fa16a5c776e7", "5649069e6b70", "f967757bb611"),
    "all_clients always": ("50034a988549", "8d6254bfadea", "102cc94ba9d7"),
    "all_clients local": ("0f135095c2ba", "ae00d1d830a9", "c2caea600e03"),
    "contributors with_layer": ("ee697d9350fa", "e827c50ecd5a", "99587494ac05"),
    "contributors always": ("bc633eabb130", "d398a194e63e", "e779bc726d3b"),
    "contributors local": ("107f8140cf5c", "5c5f656b92ca", "55d028543c56"),
    "shrunk with_layer": ("bc7574603421", "f6cf6b3dd189", "a07bf8435ecc"),
    "shrunk always": ("adf62d9df8e3", "3054c110a80d", "87ed392563d1"),
    "shrunk local": ("dc1711941ca9", "f0f096235c30", "ecf510dfbd6c"),
    "inverse_probability with_layer": ("b942f03ff421", "771d10d87e38", "fd7a5f2cc1b7"),
    "inverse_probability always": ("02f6171f0b01", "8bbeafe913f3", "aec6c6240ced"),
    "inverse_probability local": ("15f75f5f26d3", "9fd6eeca505b", "66b102435e2e"),
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
