"""Temporal consistency without what is occluded, by hand, and what a wrong flow says."""

from __future__ import annotations

import numpy as np
import pytest

from vss.core.errors import UserError
from vss.score.temporal import open_flow, visible_confusion, visible_pixels


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


def test_a_flow_that_cannot_be_used_is_one_line():
    with pytest.raises(UserError, match="raft needs the weights"):
        open_flow("raft", None)
    with pytest.raises(UserError, match="no such optical flow 'x'; allowed: dis, raft"):
        open_flow("x", None)
