"""A folder of custom modules, in use for one test."""

import textwrap

import pytest

from fedn_partial.custom import modules


@pytest.fixture
def custom(tmp_path):
    """Write modules, given as {name: source}, to a folder, and let names refer to them; return the folder."""

    def write(**sources):
        folder = tmp_path / "custom"
        folder.mkdir(exist_ok=True)
        for name, source in sources.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(source).lstrip("\n"))
        modules.use(folder)
        return folder

    yield write
    modules.use(None)
