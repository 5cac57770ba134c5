"""Custom codecs: what they may return, and how what they must not is refused on a device and by the server."""

import sys
import textwrap

import numpy as np
import pytest
from sources import line_of
from updates import KERNELS, changed, decoded, encoded, flat, randoms, residuals, through_the_wire

from fedn_partial.custom import modules
from fedn_partial.custom.errors import UserCodeError

CODECS = """
    import numpy as np
    from fedn_partial.exchange.codecs import Codec


    class Array(Codec):
        def encode(self, change):
            return change[::-1]

        def decode(self, data, shape):
            return np.frombuffer(data, "<f4").reshape(shape)[::-1]


    class Buffer(Array):
        buffer = bytearray(4 * 1152)

        def encode(self, change):
            self.buffer[: change.nbytes] = change[::-1].tobytes()
            return memoryview(self.buffer)[: change.nbytes]


    class Weights(Array):
        encodes_changes = False
        fixed_size = True


    class Longer(Weights):
        def encode(self, change):
            return change.tobytes() + b"1"


    class Shorter(Weights):
        def encode(self, change):
            return change.tobytes()[1:]


    class Objects(Array):
        def encode(self, change):
            return change.astype(object)


    class Nothing(Array):
        def encode(self, change):
            return np.empty((0, 3))


    class Unfinished(Codec):
        pass


    class Limit(Array):
        def max_bytes(self, shape):
            return "many"


    class Constructor(Array):
        def __init__(self):
            self.table = {}["none"]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of custom modules, which the server has too."""
    folder = tmp_path / "custom"
    folder.mkdir()
    (folder / "codecs_of_mine.py").write_text(textwrap.dedent(CODECS).lstrip("\n"))
    modules.use(folder)
    monkeypatch.setitem(
        sys.modules, "fedn_partial.exchange.custom.codecs_of_mine", modules.load("codecs_of_mine", "test")
    )
    yield folder
    modules.use(None)


@pytest.mark.parametrize("name", ["Array", "Buffer", "Weights"])
def test_a_lossless_codec_returns_the_weights(tmp_path, name):
    base, values = randoms(flat(KERNELS), 1), randoms(flat(KERNELS), 2)
    came = through_the_wire(tmp_path, f"codecs_of_mine:{name}", values, base)
    for array, value, old in zip(came, values, base, strict=True):
        rounded = value if name == "Weights" or value.ndim == 1 else (value - old) + old
        np.testing.assert_array_equal(array, rounded, strict=True)


def test_a_codec_of_weights_has_no_residual(tmp_path):
    values = randoms(flat(KERNELS))
    for name, files in (("Weights", 0), ("Array", 2)):
        through_the_wire(tmp_path, f"codecs_of_mine:{name}", values, values, memory=residuals(tmp_path / name))
        assert len([*tmp_path.glob(f"{name}/*.npy")]) == files


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("Longer", "class Longer", "encode returned 4609 bytes for shape (3, 3, 8, 16), but max_bytes returned 4608"),
        ("Shorter", "class Shorter", "encode returned 4607 bytes for shape (3, 3, 8, 16), but max_bytes returned 4608"),
        ("Objects", "def encode(self, change):", "TypeError: "),
        ("Nothing", "def decode", "ValueError: cannot reshape array of size 0 into shape (3,3,8,16)"),
        ("Unfinished", "class Unfinished", "NotImplementedError"),
        ("Limit", "class Limit", "TypeError: '<=' not supported between instances of 'int' and 'str'"),
        ("Constructor", 'self.table = {}["none"]', "KeyError: 'none'"),
    ],
)
def test_an_error_on_a_device_names_file_and_line(tmp_path, folder, name, line, reason):
    values = randoms(flat(KERNELS))
    with pytest.raises(UserCodeError) as raised:
        encoded(tmp_path, f"codecs_of_mine:{name}", values, values)
    message = str(raised.value)
    assert message.startswith(f"{folder / 'codecs_of_mine.py'}, line ") and reason in message
    if name not in ("Objects", "Nothing", "Limit"):
        assert message.startswith(f"{folder / 'codecs_of_mine.py'}, line {line_of(CODECS, line)}: ")
    assert not (tmp_path / "update.npz").exists()


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("Weights", lambda a, b: [a, b[4612:]], "1920 bytes, expected 4608$"),
        ("Array", lambda a, b: [a, b[4612:]], "cannot reshape array of size 480"),
        ("Array", lambda a, b: [a, np.append(np.uint8([1, 20, 0, 0]), b)], "5121 bytes, expected 4608 at most"),
        ("Limit", lambda a, b: [a, b], "TypeError: '>' not supported between instances of 'int' and 'str'"),
        ("Unfinished", lambda a, b: [a, b], "NotImplementedError: "),
    ],
)
def test_an_error_on_the_server_is_the_reason_of_a_refusal(tmp_path, name, change, reason):
    values = randoms(flat(KERNELS))
    arrays, metadata = encoded(tmp_path, "codecs_of_mine:Array", values, values)
    arrays, metadata = changed(arrays, metadata, change)
    with pytest.raises(ValueError, match=rf"has an invalid kernel of shape \(3, 3, 8, 16\) in a: {reason}"):
        decoded(arrays, {**metadata, "codec": f"codecs_of_mine:{name}"}, values)
