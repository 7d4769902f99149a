"""RAFT against torchvision, and what weights that are not its own say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.optical_flow import raft_large

from vss.core.errors import UserError
from vss.flow.raft import RaftFlow
from vss.weights.tensor_files import save_tensors


def test_raft_is_torchvisions_on_padded_frames(raft_weights):
    rng = np.random.default_rng(1)
    first, second = (rng.integers(0, 256, (126, 131, 3), np.uint8) for _ in range(2))
    found = RaftFlow(raft_weights, "cpu", half=True)(first, second)  # half precision is for GPUs only
    assert found.shape == (2, 126, 131) and found.dtype == np.float32
    # 126 x 131 becomes 128 x 136: one row above and below, two columns on the left and three on the right.
    padded = [np.pad(frame, ((1, 1), (2, 3), (0, 0)), mode="edge").transpose(2, 0, 1) for frame in (first, second)]
    inputs = [torch.from_numpy(frame[None].astype(np.float32) / 127.5 - 1) for frame in padded]
    torch.manual_seed(0)
    model = raft_large(weights=None, progress=False).eval()
    with torch.no_grad():
        expected = model(*inputs, num_flow_updates=20)[-1][0].numpy()
    np.testing.assert_allclose(found, expected[:, 1:127, 2:133], atol=1e-3)


def test_other_weights_are_one_line(tmp_path):
    save_tensors({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="not the weights of torchvision's raft_large"):
        RaftFlow(tmp_path / "other.safetensors", "cpu")
