"""Residuals of error feedback: those of one session, and none where they cannot be read or written."""

import numpy as np

from fedn_partial.runtime.residuals import Residual, residuals
from fedn_partial.submodel.layers import Tensor


def test_residuals_of_another_session_are_gone_and_damaged_ones_count_as_none(tmp_path):
    tensors = [Tensor(3, "a/kernel", (2, 2), "float32")]
    kept = np.float32([[1, 2], [3, 4]])
    (residual,) = residuals(tmp_path / "r", "s1", tensors)
    assert residual.load((2, 2)) == 0
    residual.save(kept)
    np.testing.assert_array_equal(residuals(tmp_path / "r", "s1", tensors)[0].load((2, 2)), kept)
    assert residual.load((4,)) == 0
    residual.path.write_bytes(residual.path.read_bytes()[:-4])
    assert residual.load((2, 2)) == 0
    assert residuals(tmp_path / "r", "s2", tensors)[0].load((2, 2)) == 0
    assert not residual.path.exists()


def test_a_residual_that_cannot_be_written_costs_no_round(tmp_path, capfd):
    (tmp_path / "file").write_text("in the way")
    Residual(tmp_path / "file" / "0.npy").save(np.ones(3, np.float32))
    assert "cannot save the residual" in capfd.readouterr().err
