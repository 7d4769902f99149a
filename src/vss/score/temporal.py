"""Temporal consistency TC: does a prediction, moved along the optical flow, agree with the one of the next frame?

The truth is never used. TC is the mean IoU between the prediction of a frame and that of the next frame warped back to
it, from one confusion matrix over all pairs (VSPW_code TC_cal.py, which takes RAFT's flow and the first 100 videos).
"""

from __future__ import annotations

import os
from collections.abc import Callable

import cv2
import numpy as np

from vss.core.confusion import confusion_matrix
from vss.core.errors import UserError
from vss.core.label_space import ignore_index

OFFICIAL_VIDEOS = 100  # TC_cal.py stops after the first 100 videos of its list


def warp_labels(labels: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Returns the next frame's label map as seen from this frame, exactly as TC_cal.py `flowwarp` samples it.

    Two quirks are the published metric's own and kept: positions are normalised with size-1 but read with half-pixel
    centres, so that zero flow is not the identity; what falls outside the frame becomes class 0, a real class (wall).

    Args:
        labels: train ids of the next frame [H, W].
        flow: displacement in pixels from this frame to the next [2, H, W] float32, x first.

    Returns:
        [H, W].
    """
    height, width = labels.shape
    flow = flow.astype(np.float32, copy=False)
    column = _sample_position(np.arange(width, dtype=np.float32)[None, :] + flow[0], width)
    row = _sample_position(np.arange(height, dtype=np.float32)[:, None] + flow[1], height)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    warped = np.zeros_like(labels)
    warped[inside] = labels[row[inside].astype(np.intp), column[inside].astype(np.intp)]
    return warped


def _sample_position(position: np.ndarray, size: int) -> np.ndarray:
    # float32 in this very order: a position may lie within rounding of the border between two pixels.
    one, two = np.float32(1), np.float32(2)
    normalised = two * position / np.float32(max(size - 1, 1)) - one
    return np.rint(((normalised + one) * np.float32(size) - one) / two)


def pair_confusion(labels: np.ndarray, next_labels: np.ndarray, flow: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts this frame's prediction (rows) against the next frame's, warped (columns).

    Args:
        labels, next_labels: train ids [H, W].
        flow: [2, H, W] float32 from this frame to the next.
        num_classes: number of classes.

    Returns:
        int64, as `confusion_matrix` returns it.
    """
    return confusion_matrix(warp_labels(next_labels, flow), labels, num_classes)


def dis_flow(image: np.ndarray, next_image: np.ndarray) -> np.ndarray:
    """Returns OpenCV's DIS optical flow [2, H, W] float32 between two RGB frames [H, W, 3] uint8.

    It needs no weights. It is not RAFT: TC from it is named TC_dis and compares predictions with each other, not with
    published TC.
    """
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (image, next_image)]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(*grey, None)
    return np.ascontiguousarray(flow.transpose(2, 0, 1))


def visible_pixels(flow: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Returns which pixels of a frame are still to be seen in the next one [H, W] bool.

    A pixel is taken to be occluded where the flow leaves the frame, or where the flow back does not return: forward and
    backward w, v with |w + v|^2 >= 0.01 (|w|^2 + |v|^2) + 0.5, v at the nearest pixel that w leads to (Sundaram et al.,
    ECCV 2010; the mask of Lai et al.'s warping error, ECCV 2018).

    Args:
        flow: from this frame to the next [2, H, W] float32, x first.
        backward: from the next frame to this one, likewise.
    """
    return _visible(flow, backward, *_targets(flow))


def _visible(
    flow: np.ndarray, backward: np.ndarray, column: np.ndarray, row: np.ndarray, inside: np.ndarray
) -> np.ndarray:
    returned = backward[:, row, column]
    apart = ((flow + returned) ** 2).sum(axis=0)
    return inside & (apart < 0.01 * ((flow**2).sum(axis=0) + (returned**2).sum(axis=0)) + 0.5)


def _targets(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns column and row [H, W] of the nearest pixel that a flow leads to, and whether it is inside the frame."""
    height, width = flow.shape[1:]
    column = np.rint(np.arange(width)[None, :] + flow[0]).astype(np.intp)
    row = np.rint(np.arange(height)[:, None] + flow[1]).astype(np.intp)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return column.clip(0, width - 1), row.clip(0, height - 1), inside


def visible_confusion(
    labels: np.ndarray, next_labels: np.ndarray, flow: np.ndarray, backward: np.ndarray, num_classes: int
) -> np.ndarray:
    """Counts this frame's prediction (rows) against the next frame's where the flow leads, occluded pixels left out.

    Unlike `pair_confusion` it has none of the published metric's quirks: zero flow is the identity, and what falls
    outside the frame does not count.

    Args:
        labels, next_labels: train ids [H, W].
        flow, backward: see `visible_pixels`.
        num_classes: number of classes.

    Returns:
        int64, as `confusion_matrix` returns it.
    """
    column, row, inside = _targets(flow)
    seen = np.where(
        _visible(flow, backward, column, row, inside), labels, labels.dtype.type(ignore_index(labels.dtype))
    )
    return confusion_matrix(next_labels[row, column], seen, num_classes)


FLOWS = ("dis", "raft")
Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]


def open_flow(name: str, weights: str | os.PathLike | None) -> Flow:
    """Returns the function from two RGB frames [H, W, 3] uint8 to their flow [2, H, W] float32.

    Args:
        name: one of `FLOWS`.
        weights: of torchvision's `raft_large`, for "raft" alone.

    Raises:
        UserError: no such flow; "raft" without weights, or they cannot be used.
    """
    if name == "dis":
        return dis_flow
    if name != "raft":
        raise UserError(f"flow: no such optical flow {name!r}; allowed: {', '.join(FLOWS)}, or none")
    if weights is None:
        raise UserError("flow: raft needs the weights of torchvision's raft_large (--flow-weights)")
    from vss.flow.raft import RaftFlow  # torch only where it is needed

    return RaftFlow(weights)
