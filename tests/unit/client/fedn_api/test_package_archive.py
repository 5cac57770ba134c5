"""Checks of a compute package's archive."""

import bz2
import gzip
import tarfile

import pytest
from archives import archive
from click.testing import CliRunner

from fedn_partial.client.commands.cli import main
from fedn_partial.client.fedn_api.package_archive import PackageError, check_runs, read_package, unpack
from fedn_partial.seed_model.package import build_package

FEDN_YAML = "entry_points: {train: {command: python3 train.py}, validate: {command: bash run.sh validate}}\n"
FILES = {"fedn.yaml": FEDN_YAML, "train.py": "x = 1\n", "run.sh": "true\n"}


def test_a_package_is_unpacked(tmp_path):
    package = unpack(archive(tmp_path / "p.tgz", FILES), tmp_path / "in")
    assert package.folder == tmp_path / "in" and not package.ours
    assert package.config["entry_points"]["train"] == {"command": "python3 train.py"}
    assert (tmp_path / "in/train.py").read_text() == "x = 1\n"
    assert (tmp_path / "in/train.py").stat().st_mode & 0o7777 == 0o644


def test_a_package_in_a_folder_of_its_archive_is_found_as_fedn_finds_it(tmp_path):
    package = unpack(archive(tmp_path / "p.tgz", {f"client/{name}": FILES[name] for name in FILES}), tmp_path / "in")
    assert package.folder == tmp_path / "in" / "client"


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
def test_nothing_of_a_package_gets_out_of_its_folder(tmp_path, member):
    with pytest.raises(PackageError, match="not a plain file or folder"):
        unpack(archive(tmp_path / "p.tgz", FILES, **member), tmp_path / "in")
    assert {path.name for path in tmp_path.rglob("*")} <= {"in", "p.tgz"}


def flip(content, place):
    place = int(len(content) * place)
    return content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]


DAMAGE = {
    "empty": lambda content: b"",
    "text": lambda content: b"no archive",
    "truncated": lambda content: content[: len(content) // 2],
    "its last bytes are missing": lambda content: content[:-6],
    "damaged in the middle": lambda content: flip(content, 0.5),
    "damaged at its end": lambda content: content[:-7] + bytes([content[-7] ^ 1]) + content[-6:],
}


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress], ids=["gz", "bz2"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_truncated_or_damaged_archive_is_named(tmp_path, damage, pack):
    build_package(tmp_path / "whole.tgz")
    plain = gzip.decompress((tmp_path / "whole.tgz").read_bytes())
    (tmp_path / "p.tgz").write_bytes(damage(pack(plain)))
    with pytest.raises(PackageError, match=r"the archive is .*build or copy it again"):
        unpack(tmp_path / "p.tgz", tmp_path / "in")


def test_a_damaged_header_of_a_plain_tar_file_is_not_its_end(tmp_path):
    content = archive(tmp_path / "p.tgz", FILES, "w").read_bytes()
    second = content.index(b"train.py\0")
    (tmp_path / "p.tgz").write_bytes(content[:second] + b"X" + content[second + 1 :])
    with pytest.raises(PackageError, match="damaged header"):
        unpack(tmp_path / "p.tgz", tmp_path / "in")


INCOMPLETE = {
    "no fedn.yaml": ({"train.py": ""}, "has no fedn.yaml"),
    "no YAML": ({"fedn.yaml": "{{"}, "fedn.yaml cannot be read"),
    "no entry points": ({"fedn.yaml": "python_env: x\n"}, "no section 'entry_points'"),
    "a list": ({"fedn.yaml": "- a\n"}, "no section 'entry_points'"),
    "no train": ({"fedn.yaml": "entry_points: {validate: {command: 'true'}}"}, "no entry point 'train'"),
    "no validate": ({"fedn.yaml": "entry_points: {train: {command: 'true'}}"}, "no entry point 'validate'"),
    "no command": ({"fedn.yaml": "entry_points: {train: {}, validate: {}}"}, "no command for entry point 'train'"),
    "no script": (
        {"fedn.yaml": "entry_points: {train: {command: python3 train.py}, validate: {command: 'true'}}"},
        "entry point 'train' runs train.py, which is not in",
    ),
    "no startup script": (
        {**FILES, "fedn.yaml": FEDN_YAML.replace("{train", "{startup: {command: ./go.sh}, train")},
        "entry point 'startup' runs ./go.sh",
    ),
    "an open quote": (
        {**FILES, "fedn.yaml": FEDN_YAML.replace("python3 train.py", """'"python3 train.py'""")},
        "invalid command .* of entry point 'train'",
    ),
    "no environment": ({**FILES, "fedn.yaml": FEDN_YAML + "python_env: env.yaml\n"}, "names python_env env.yaml"),
}


@pytest.mark.parametrize(("files", "reason"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_what_a_device_could_not_run_is_named(tmp_path, files, reason):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(PackageError, match=reason):
        read_package(tmp_path)


def change(folder, **files):
    """The project's own package with some files changed."""
    build_package(folder / "whole.tgz")
    package = unpack(folder / "whole.tgz", folder / "in")
    for name, text in files.items():
        (folder / "in" / f"{name}.py").write_text(text)
    return package


def test_the_projects_own_package_runs(tmp_path):
    package = change(tmp_path)
    check_runs(package)
    assert package.ours


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"train": "def f(:\n"}, "train.py, line 1 is not valid Python"),
        ({"train": "from fedn_partial import no_such\n"}, "cannot be imported: ImportError"),
    ],
    ids=["syntax", "import"],
)
def test_a_package_that_does_not_run_is_named(tmp_path, files, reason):
    package = change(tmp_path, **files)
    with pytest.raises(PackageError, match=reason):
        check_runs(package)


UPLOADS = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:20_000]), "truncated"),
    "damaged": (lambda path: path.write_bytes(flip(path.read_bytes(), 0.5)), "truncated or damaged"),
    "no entry points": (lambda path: archive(path, {"fedn.yaml": "a: 1\n"}), "no section 'entry_points'"),
    "in a folder": (lambda path: archive(path, {f"a/{name}": FILES[name] for name in FILES}), "must be at its top"),
}


@pytest.mark.parametrize(("damage", "reason"), UPLOADS.values(), ids=UPLOADS)
def test_a_bad_package_is_not_uploaded(tmp_path, damage, reason):
    path = tmp_path / "package.tgz"
    build_package(path)
    damage(path)
    result = CliRunner().invoke(main, ["package", "upload", str(path), "--api-url", "http://127.0.0.1:1"])
    assert result.exit_code == 2 and f"{path} is not uploaded: " in result.output and reason in result.output
    assert "Aborted" not in result.output


def test_a_package_that_runs_a_program_which_is_not_there_is_not_uploaded(tmp_path):
    text = FEDN_YAML.replace("python3 train.py", "no-such-program train.py")
    package = unpack(archive(tmp_path / "p.tgz", {**FILES, "fedn.yaml": text}), tmp_path / "in")
    with pytest.raises(PackageError, match="'no-such-program', which is not a program"):
        check_runs(package)
