"""The registry is the only place that has all codecs, and nothing else has the name of one."""

import re

import pytest
from paths import ROOT

from fedn_partial.exchange.codecs import CODECS, DEFAULT, Codec

CODE = [path for folder in ("compute_package", "client", "seed_model") for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("name", CODECS)
def test_each_codec_is_made_from_the_file_of_its_name(name):
    codec = CODECS[name]()
    assert isinstance(codec, Codec) and type(codec).__module__ == f"fedn_partial.exchange.codecs.{name}"
    assert DEFAULT in CODECS


def test_no_other_line_of_code_has_the_name_of_a_codec():
    """Their names are also those of dtypes: a line about codecs is one with the word."""
    name, quoted = rf"\b({'|'.join(CODECS)})\b", rf"['\"`]({'|'.join(CODECS)})['\"`]"
    names = re.compile(rf"codec.*{quoted}|{quoted}.*codec|codecs?[ :=]+{name}", re.IGNORECASE)
    lines = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in CODE
        if path.parent.name != "codecs"
        for line in path.read_text().splitlines()
        if names.search(line)
    ]
    assert lines == []
