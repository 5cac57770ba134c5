"""What every device downloads."""

from fedn_partial.seed_model.package import build_package


def test_the_compute_package_is_below_63_kb(tmp_path):
    build_package(tmp_path / "package.tar.bz2")
    assert (tmp_path / "package.tar.bz2").stat().st_size < 63_000


def test_equal_files_give_an_equal_package(tmp_path):
    for name in "ab":
        build_package(tmp_path / f"{name}.tar.bz2")
    assert (tmp_path / "a.tar.bz2").read_bytes() == (tmp_path / "b.tar.bz2").read_bytes()
