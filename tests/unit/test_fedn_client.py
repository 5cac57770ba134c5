"""FEDn's client on a device."""

from fedn_partial.client import node


def test_temporary_models_of_a_killed_client_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "elsewhere")
    monkeypatch.setattr(node.tempfile, "tempdir", None)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp/left").write_text("x")
    node._make_temporary(tmp_path / "tmp")
    assert not list((tmp_path / "tmp").iterdir())
    assert node.tempfile.mkstemp()[1].startswith(str(tmp_path / "tmp"))
