"""What a device does with a compute package that is not what it should be."""

import io
import tarfile

import pytest

from fedn_partial.client import node
from fedn_partial.client.fedn_client import CarefulRuntime


def archive(path, **member):
    """An archive with fedn.yaml and one more member."""
    with tarfile.open(path, "w:gz") as made:
        for fields in ({"name": "fedn.yaml"}, member):
            info = tarfile.TarInfo()
            for key, value in fields.items():
                setattr(info, key, value)
            made.addfile(info, io.BytesIO(b"x" * info.size))


def unpack(folder):
    runtime = CarefulRuntime(str(folder))
    runtime.pkg_name = "package.tgz"
    return runtime.unpack_compute_package()


def test_a_package_is_unpacked(tmp_path):
    (tmp_path / "in").mkdir()
    archive(tmp_path / "in/package.tgz", name="library/a.py", size=3, mode=0o4777)
    assert unpack(tmp_path / "in") == (True, str(tmp_path / "in"))
    assert (tmp_path / "in/library/a.py").read_text() == "xxx"
    assert (tmp_path / "in/library/a.py").stat().st_mode & 0o7777 == 0o644
    assert not (tmp_path / "in/package.tgz").exists()


@pytest.mark.parametrize(
    "member",
    [
        {"name": "../out", "size": 1},
        {"name": "a/../../out", "size": 1},
        {"name": "/tmp/fedn-partial-out", "size": 1},
        {"name": "link", "type": tarfile.SYMTYPE, "linkname": ".."},
        {"name": "link", "type": tarfile.LNKTYPE, "linkname": "../out"},
        {"name": "device", "type": tarfile.CHRTYPE},
    ],
)
def test_nothing_of_a_package_gets_out_of_its_folder(tmp_path, member, capfd):
    (tmp_path / "in").mkdir()
    archive(tmp_path / "in/package.tgz", **member)
    assert unpack(tmp_path / "in") == (False, "")
    assert {path.name for path in tmp_path.rglob("*")} == {"in", "package.tgz"}
    assert "not a plain file or folder" in "".join(capfd.readouterr())


def test_temporary_models_of_a_killed_client_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "elsewhere")
    monkeypatch.setattr(node.tempfile, "tempdir", None)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp/left").write_text("x")
    node._make_temporary(tmp_path / "tmp")
    assert not list((tmp_path / "tmp").iterdir())
    assert node.tempfile.mkstemp()[1].startswith(str(tmp_path / "tmp"))
