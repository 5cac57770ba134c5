"""What every device downloads."""

import subprocess
import sys
import tarfile

from fedn_partial.seed_model.package import build_package


def test_the_compute_package_is_below_63_kb(tmp_path):
    build_package(tmp_path / "package.tar.bz2")
    assert (tmp_path / "package.tar.bz2").stat().st_size < 63_000


def test_equal_files_give_an_equal_package(tmp_path):
    for name in "ab":
        build_package(tmp_path / f"{name}.tar.bz2")
    assert (tmp_path / "a.tar.bz2").read_bytes() == (tmp_path / "b.tar.bz2").read_bytes()


def test_a_custom_module_may_hold_a_codec_and_a_merge_rule(tmp_path):
    """A device imports it for the codec, and has the base of the rule as well."""
    build_package(tmp_path / "package.tar.bz2")
    with tarfile.open(tmp_path / "package.tar.bz2") as archive:
        archive.extractall(tmp_path / "package")
    (tmp_path / "methods.py").write_text(
        "from fedn_partial.exchange.codecs import Codec\n"
        "from fedn_partial.exchange.merge_rules import BaseRule, Clipped, MergeRule, Stacked\n"
        "import fedn_partial.exchange as exchange\n"
        "print(exchange.__file__, MergeRule.__name__)\n"
    )
    code = f"import sys; sys.path[:0] = [{str(tmp_path / 'package')!r}]; import runpy; runpy.run_path('methods.py')"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.startswith(str(tmp_path / "package")), result.stderr
