"""Imperfect masks made from perfect ones, by CascadePSP's recipe (paper section 4.1, its supplement; upstream
util/boundary_modification.py and util/de_transform.py).

First the contours lose detail: of each, a run of vertices where it nearly touches itself, then all but a tenth of the
rest. Then random rectangles are dilated or eroded, and single pixels set or cleared (which grow to islands and holes),
until the overlap with the true mask has fallen to a target. Upstream's masks are of objects hundreds of pixels wide;
so that small ones keep their shape, contours keep more vertices where the target would be missed, and the overlap is
measured after every change.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

_REMOVED_RUN = 0.1  # share of a contour's vertices that is cut out
_KEPT = (0.1, 0.3, 0.6)  # share of the remaining vertices that is kept: the first that stays above the target
_SHORTEST = 10  # contours of fewer vertices vanish
_MAX_CHANGES = 1000
_FALLEN_TOO_FAR = 0.3  # of the target


def perturb(mask: np.ndarray, rng: np.random.Generator, *, iou_target: float, max_kernel: int = 10) -> np.ndarray:
    """Returns a mask [H, W] bool whose IoU with `mask` has just fallen below `iou_target`.

    Args:
        mask: [H, W] bool.
        iou_target: in 0..1.
        max_kernel: pixels; structuring elements are 3..max_kernel - 1 wide (upstream: 10 for crops of 224 pixels).
    """
    changed = mask.copy()
    for kept in _KEPT:
        simplified = _simplify_contours(mask, rng, kept)
        if iou(simplified, mask) >= iou_target:
            changed = simplified
            break
    changed, fallen = changed.astype(np.uint8), None
    for _ in range(_MAX_CHANGES if min(mask.shape) > 2 else 0):
        before = changed.copy()
        _change_rectangle(changed, rng, max_kernel)
        overlap = iou(changed, mask)
        if overlap >= iou_target:
            continue
        fallen, changed = changed, before  # where this change took too much, another one is tried in its place
        if overlap > _FALLEN_TOO_FAR * iou_target:
            break
    return (changed if fallen is None else fallen).astype(bool)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Returns intersection over union of two masks; 1 if both are empty."""
    union = np.count_nonzero(np.logical_or(a, b))
    return np.count_nonzero(np.logical_and(a, b)) / union if union else 1.0


def _simplify_contours(mask: np.ndarray, rng: np.random.Generator, kept: float) -> np.ndarray:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    simplified = [_simplify(contour[:, 0], rng, kept) for contour in contours if len(contour) >= _SHORTEST]
    if not simplified:
        return mask.copy()
    canvas = np.zeros(mask.shape, np.uint8)
    # Drawn together: nested contours are holes.
    return cv2.drawContours(canvas, [points[:, None] for points in simplified], -1, 1, cv2.FILLED).astype(bool)


def _simplify(points: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """Returns the kept vertices [k, 2] of a contour [n, 2]."""
    run = int(len(points) * _REMOVED_RUN)
    gaps = np.square(points[: len(points) - run] - points[run:]).sum(axis=1)
    narrowest = np.argsort(gaps, kind="stable")[: math.ceil(0.1 * len(gaps))]
    start = rng.choice(narrowest)
    points = np.delete(points, np.s_[start : start + run], axis=0)
    kept = rng.choice(len(points), size=max(1, int(len(points) * share)), replace=False)
    return points[np.sort(kept)]


def _change_rectangle(mask: np.ndarray, rng: np.random.Generator, max_kernel: int) -> None:
    height, width = mask.shape
    left, top = rng.integers(width), rng.integers(height)
    right, bottom = rng.integers(left + 1, width + 1), rng.integers(top + 1, height + 1)
    if rng.random() < 0.25:
        mask[(top + bottom) // 2 if bottom - top > 1 else top, (left + right) // 2 if right - left > 1 else left] = (
            rng.integers(2)
        )
    grow = cv2.dilate if rng.random() < 0.5 else cv2.erode
    region = np.ascontiguousarray(mask[top:bottom, left:right])
    mask[top:bottom, left:right] = grow(region, _structuring_element(rng, max_kernel))


def _structuring_element(rng: np.random.Generator, max_kernel: int) -> np.ndarray:
    size = int(rng.integers(min(3, max_kernel - 1), max_kernel))
    shape, wide, high = (
        (cv2.MORPH_RECT, size, size),
        (cv2.MORPH_ELLIPSE, size, size),
        (cv2.MORPH_ELLIPSE, size, max(1, size // 2)),
        (cv2.MORPH_ELLIPSE, max(1, size // 2), size),
    )[rng.integers(4)]
    return cv2.getStructuringElement(shape, (wide, high))
