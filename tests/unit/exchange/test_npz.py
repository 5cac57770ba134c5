"""What an npz file declares is checked before an array is read, and costs no memory."""

import io
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from fedn_partial.errors import ModelError
from fedn_partial.exchange.model_file import read_model
from fedn_partial.exchange.npz import DIRECTORY_LIMIT, check_npz
from fedn_partial.submodel.layers import Tensor

TENSORS = [Tensor(0, "a/kernel", (2, 3), "float32"), Tensor(1, "a/bias", (3,), "float32")]
GOOD = [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3, np.float32)]


def npy(array, **header):
    """The bytes of an npy file, with `header` put in place of what is true of `array`."""
    file = io.BytesIO()
    fields = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape, **header}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue() + array.tobytes()


def npz(*contents, compression=zipfile.ZIP_STORED, names=None):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in zip(names or [f"{index}.npy" for index in range(len(contents))], contents, strict=True):
            archive.writestr(name, content)
    return file.getvalue()


def bomb(size=1 << 30):
    """A deflated array of `size` bytes of zeros, in a thousandth of them."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("0.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (size // 4,)})
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))
    return file.getvalue()


def understated(content):
    """`content` deflated in a file whose directory declares only the first half of it, with the checksum of that."""
    half = len(content) // 2
    made = bytearray(npz(content, compression=zipfile.ZIP_DEFLATED))
    central = made.index(b"PK\x01\x02")
    struct.pack_into("<I", made, central + 16, zlib.crc32(content[:half]))
    struct.pack_into("<I", made, central + 24, half)
    return bytes(made)


def longer_than_declared(array, checked):
    """A model whose array goes on behind its declared end; its checksum covers `checked` bytes of that."""
    content = npy(array)
    made = bytearray(npz(content + bytes(1000), compression=zipfile.ZIP_DEFLATED))
    central = made.index(b"PK\x01\x02")
    struct.pack_into("<I", made, central + 16, zlib.crc32(content + bytes(checked)))
    struct.pack_into("<I", made, central + 24, len(content))
    return bytes(made)


def many_members(number=30_000):
    return npz(*[b""] * number, names=[str(index) for index in range(number)])


def test_headers_are_those_of_the_arrays(tmp_path):
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "model.npz", **{str(index): array for index, array in enumerate(GOOD)})
        headers = check_npz(tmp_path / "model.npz", 36)
        assert [(header.dtype, header.shape) for header in headers] == [(a.dtype, a.shape) for a in GOOD]
    with (tmp_path / "model.npz").open("rb") as file:
        assert len(check_npz(file, 36)) == 2 and file.tell() == 0


@pytest.mark.parametrize("array", [np.float32(3), np.zeros((0, 5)), np.ones((2, 2), complex), np.zeros(3, bool)])
def test_every_array_of_numbers_passes(array):
    (header,) = check_npz(io.BytesIO(npz(npy(np.asarray(array)))), 64)
    assert (header.dtype, header.shape) == (array.dtype, array.shape)


REFUSED = {
    "empty": (b"", "not a zip file"),
    "text": (b"no model at all, but long enough to hold an end record", "not a zip file"),
    "truncated": (npz(*map(npy, GOOD))[:-40], "its end is missing"),
    "no npy": (npz(b"hello", npy(GOOD[1])), "array 0, which is not in the npy format"),
    "pickled": (npz(npy(np.zeros(3), descr="|O")), "array 0, which holds object"),
    "text array": (npz(npy(np.array(["ab"]))), "expected an array of numbers"),
    "fields": (npz(npy(np.zeros(2, [("a", "<f4")]), descr=[("a", "<f4")])), "expected an array of numbers"),
    "nested header": (npz(b"\x93NUMPY\x01\x00\x00\x0f" + b"(" * 3840), "not in the npy format"),
    "endless header": (npz(b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b" " * 4000), "not in the npy format"),
    "other name": (npz(npy(GOOD[0]), names=["weights.npy"]), "none named '0'"),
    "same name twice": (npz(npy(GOOD[0]), npy(GOOD[1]), names=["0.npy", "0.npy"]), "none named '1'"),
    "shape is larger": (npz(npy(GOOD[0], shape=(2**40,))), "takes 4,398,046,511,"),
    "shape is smaller": (npz(npy(GOOD[0], shape=(2,))), "declares 152 bytes, but float32 .* takes 136"),
    "negative shape": (npz(npy(GOOD[0], shape=(-2, -3))), "expected an array of numbers"),
    "directory understates": (understated(npy(np.zeros(100))), "but float64"),
    "another compression": (npz(npy(GOOD[0]), compression=zipfile.ZIP_LZMA), "only deflate is supported"),
    "above the limit": (npz(npy(np.zeros(100))), "800 bytes of arrays, more than 400"),
    "many members": (many_members(), f"directory exceeds {DIRECTORY_LIMIT:,} bytes"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_model_is_refused_by_name(content, reason):
    with pytest.raises(ModelError, match=reason):
        check_npz(io.BytesIO(content), 400)


def test_compressed_arrays_are_refused_where_they_must_be_stored():
    packed = npz(*map(npy, GOOD), compression=zipfile.ZIP_DEFLATED)
    assert len(check_npz(io.BytesIO(packed), 36)) == 2
    with pytest.raises(ModelError, match="array 0, which is compressed; it must be stored"):
        check_npz(io.BytesIO(packed), 36, stored_only=True)
    assert len(check_npz(io.BytesIO(npz(*map(npy, GOOD))), 36, stored_only=True)) == 2


def test_no_file_is_refused_by_name(tmp_path):
    with pytest.raises(ModelError, match=r"cannot be read \(No such file"):
        check_npz(tmp_path / "none.npz", 1)


def memory_of(function) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(path, tensors):
    with pytest.raises(ModelError) as caught:
        list(read_model(str(path), tensors))
    return str(caught.value)


def test_a_zip_bomb_costs_a_device_no_memory(tmp_path):
    (tmp_path / "model.npz").write_bytes(bomb())
    assert (tmp_path / "model.npz").stat().st_size < 2e6
    assert memory_of(lambda: refused(tmp_path / "model.npz", TENSORS[:1])) < 1e6
    assert "is float32 (268435456,), expected float32 (2, 3)" in refused(tmp_path / "model.npz", TENSORS[:1])


@pytest.mark.parametrize(
    ("checked", "reason"), [(0, "Bad CRC"), (1, "inflates to more than the 8,128 bytes it declares")]
)
def test_an_array_that_goes_on_behind_its_declared_end_is_refused(tmp_path, checked, reason):
    (tmp_path / "model.npz").write_bytes(longer_than_declared(np.arange(2000, dtype=np.float32), checked))
    assert reason in refused(tmp_path / "model.npz", None)


def test_an_array_of_more_dimensions_than_numpy_takes_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1,) * 65})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("0.npy", header.getvalue() + bytes(4))
    with pytest.raises(ModelError, match="expected an array of numbers"):
        check_npz(str(tmp_path / "x.npz"), 1e6)
