"""Temporal consistency without what is occluded, by hand; RAFT against torchvision; what a wrong flow says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.optical_flow import raft_large

from vss.core.errors import UserError
from vss.score.temporal import open_flow, visible_confusion, visible_pixels
from vss.weights.tensor_files import save_tensors


def flow_of(across: list[list[float]]) -> np.ndarray:
    """A flow that moves pixels along their row only."""
    return np.stack([np.array(across, np.float32), np.zeros((len(across), len(across[0])), np.float32)])


def test_what_is_occluded_or_leaves_does_not_count():
    # One row. Everything moves one pixel to the right; the fourth pixel leaves; the flow back of the third place does
    # not return, as where something in front came in.
    forward = flow_of([[1, 1, 1, 1]])
    backward = flow_of([[-1, -1, 3, -1]])
    assert visible_pixels(forward, backward).tolist() == [[True, False, True, False]]
    labels, following = np.array([[0, 1, 2, 3]], np.uint8), np.array([[9, 0, 9, 1]], np.uint8)
    counted = visible_confusion(labels, following, forward, backward, 4 + 6)
    # Pixel 0 goes to place 1 and is still 0; pixel 2 goes to place 3, which is 1 there.
    assert counted[0, 0] == 1 and counted[2, 1] == 1 and counted.sum() == 2


def test_a_small_deviation_is_not_an_occlusion():
    # |w + v|^2 = 0.49 < 0.5 + 0.01 (|w|^2 + |v|^2); at 0.75 it is 0.5625 > 0.5 + 0.01 * 0.5625.
    still = flow_of([[0, 0]])
    assert visible_pixels(still, flow_of([[0.7, 0.75]])).tolist() == [[True, False]]


@pytest.fixture(scope="module")
def raft_weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "raft.safetensors"
    save_tensors(raft_large(weights=None, progress=False).state_dict(), path)
    return path


def test_raft_is_torchvisions_on_padded_frames(raft_weights):
    rng = np.random.default_rng(1)
    first, second = (rng.integers(0, 256, (126, 131, 3), np.uint8) for _ in range(2))
    found = open_flow("raft", raft_weights)(first, second)
    assert found.shape == (2, 126, 131) and found.dtype == np.float32
    # 126 x 131 becomes 128 x 136: one row above and below, two columns on the left and three on the right.
    padded = [np.pad(frame, ((1, 1), (2, 3), (0, 0)), mode="edge").transpose(2, 0, 1) for frame in (first, second)]
    inputs = [torch.from_numpy(frame[None].astype(np.float32) / 127.5 - 1) for frame in padded]
    torch.manual_seed(0)
    model = raft_large(weights=None, progress=False).eval()
    with torch.no_grad():
        expected = model(*inputs, num_flow_updates=20)[-1][0].numpy()
    np.testing.assert_allclose(found, expected[:, 1:127, 2:133], atol=1e-3)


def test_a_flow_that_cannot_be_used_is_one_line(raft_weights, tmp_path):
    save_tensors({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="not the weights of torchvision's raft_large"):
        open_flow("raft", tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="raft needs the weights"):
        open_flow("raft", None)
    with pytest.raises(UserError, match="no such optical flow 'x'; allowed: dis, raft"):
        open_flow("x", None)
