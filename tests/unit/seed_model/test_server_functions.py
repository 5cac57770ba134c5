"""The text of the server functions, and the settings in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from server_functions.hooks_harness import Combiner
from server_functions.server_worlds import PROVIDED, session_source
from sources import printed_by_server_functions

from fedn_partial import exchange
from fedn_partial.exchange.codecs import CODECS
from fedn_partial.seed_model import server_functions
from fedn_partial.submodel.layers import read_layers


@pytest.fixture(scope="module")
def vgg16_source() -> str:
    from fedn_partial import models

    return session_source(read_layers(models.build({"name": "vgg16", "width": 0.25})))


def test_the_settings_are_read_back_from_the_source(vgg16_source):
    assert server_functions.read_settings(vgg16_source) == server_functions.load(vgg16_source).settings
    for text in ("class ServerFunctions: pass", "settings = print(1)"):
        with pytest.raises(ValueError):
            server_functions.read_settings(text)


def test_the_source_is_small(vgg16_source):
    assert len(vgg16_source) < 20_000  # every client downloads it in every round


def test_the_source_needs_numpy_and_the_standard_library_only(vgg16_source, tmp_path):
    """In a process in which neither this package nor FEDn can be imported."""
    printed = printed_by_server_functions(vgg16_source, tmp_path, "functions.client_selection(['b', 'a'])")
    assert printed == "['a', 'b']\n"


def test_every_codec_is_in_the_source(vgg16_source, tmp_path):
    """They are in a package of their own, and imported when they are first used."""
    codecs = "sys.modules['fedn_partial_exchange.codecs'].CODECS"
    classes = printed_by_server_functions(
        vgg16_source, tmp_path, f"[type({codecs}[name]()).__name__ for name in {codecs}]"
    )
    assert classes == f"{[type(CODECS[name]()).__name__ for name in CODECS]}\n"


def test_an_error_names_the_line_of_the_module(vgg16_source):
    functions = server_functions.load(vgg16_source)()
    with pytest.raises(RuntimeError, match="no update has arrived") as error:
        functions.get_incremental_aggregate_model()
    frame = error.traceback[-1]
    line = (Path(exchange.__file__).parent / "server.py").read_text().splitlines()[frame.lineno]
    assert Path(frame.path).name == "server.py" and "no update has arrived" in line


def test_fedn_finds_exactly_the_functions_that_are_meant(vgg16_source, start):
    combiner = Combiner(vgg16_source)
    assert combiner.provided_functions() == PROVIDED  # a failed exec would make all of them False
