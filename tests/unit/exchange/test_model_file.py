"""The global model: what FEDn wrote comes back, and whatever does not fit is refused for the right reason."""

import numpy as np
import pytest
from fedn.utils.helpers.plugins.numpyhelper import Helper
from updates import randoms

from fedn_partial.errors import ModelError
from fedn_partial.exchange import model_file
from fedn_partial.submodel.layers import Tensor

NO_MODEL = r"model\.npz is not a model in FEDn's npz format"


def flip_a_bit(content):
    return content[:100] + bytes([content[100] ^ 4]) + content[101:]


def test_global_model_comes_as_fedn_wrote_it(tmp_path):
    weights = randoms([[3, 4], [5], []])
    path = Helper().save(weights, str(tmp_path / "model.npz"))
    for loaded, weight in zip(model_file.read_model(path), weights, strict=True):
        np.testing.assert_array_equal(loaded, weight, strict=True)


@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: b"no model", lambda content: content[:-40], flip_a_bit],
    ids=["empty", "text", "truncated", "flipped bit"],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["plain", "compressed"])
def test_damaged_global_model_is_refused(tmp_path, save, damage):
    path = tmp_path / "model.npz"
    save(path, **{"0": randoms([[40, 5]])[0]})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match=NO_MODEL):
        list(model_file.read_model(str(path)))


@pytest.mark.parametrize(
    "arrays", [{"weights": np.zeros(3, np.float32)}, {"0": np.array([{}], object)}], ids=["other names", "pickled"]
)
def test_npz_that_is_no_global_model_is_refused(tmp_path, arrays):
    np.savez(tmp_path / "model.npz", **arrays)
    with pytest.raises(ModelError, match=NO_MODEL):
        list(model_file.read_model(str(tmp_path / "model.npz")))


def test_missing_global_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=NO_MODEL):
        list(model_file.read_model(str(tmp_path / "model.npz")))


TENSORS = [Tensor(0, "a/kernel", (2, 3), "float32"), Tensor(1, "a/bias", (3,), "float32")]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_fitting_global_model_passes(tmp_path, dtype):
    weights = [array.astype(dtype) for array in randoms([(2, 3), (3,)])]
    path = Helper().save(weights, str(tmp_path / "model.npz"))
    for loaded, weight in zip(model_file.read_model(path, TENSORS), weights, strict=True):
        np.testing.assert_array_equal(loaded, weight, strict=True)
    (bias,) = model_file.read_model(path, TENSORS, only=TENSORS[1:])
    np.testing.assert_array_equal(bias, weights[1], strict=True)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        (randoms([(2, 3)]), "global model has 1 tensors, expected 2"),
        (randoms([(2, 3), (3,), (1,)]), "global model has 3 tensors, expected 2"),
        (randoms([(3, 2), (3,)]), r"tensor 0 \(a/kernel\) is float32 \(3, 2\), expected float32 \(2, 3\)"),
        (randoms([(2, 3), (3, 1)]), r"tensor 1 \(a/bias\) is float32 \(3, 1\), expected float32 \(3,\)"),
        ([np.zeros((2, 3)), *randoms([(3,)])], r"tensor 0 \(a/kernel\) is float64 \(2, 3\)"),
        ([*randoms([(2, 3)]), np.float32([0, np.nan, 0])], r"tensor 1 \(a/bias\) has values that are not finite"),
        ([*randoms([(2, 3)]), np.float32([0, 0, np.inf])], r"tensor 1 \(a/bias\) has values that are not finite"),
    ],
)
def test_global_model_that_does_not_fit_is_refused(tmp_path, arrays, told):
    path = Helper().save(arrays, str(tmp_path / "model.npz"))
    with pytest.raises(ModelError, match=told):
        list(model_file.read_model(path, TENSORS))
