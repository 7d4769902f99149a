"""The confusion matrix and the mean IoU that follows from it, once, for every stage that counts pixels.

Counts add: over frames, videos, shards. IoU is taken once, from the sum.
"""

from __future__ import annotations

import numpy as np

from vss.core.errors import UserError
from vss.core.label_space import ignore_index

CONVENTIONS = ("vspw", "mmseg")
MOST_COUNTED_CLASSES = 4_096  # a matrix of them takes 134 MB


def confusion_matrix(labels: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts the pixels of every pair (true class, predicted class) where the truth has a class.

    Args:
        labels: predicted train ids [H, W] (or any shape) of `label_dtype`, or its ignore index: no class predicted.
        truth: true train ids of the same shape and dtype, or its ignore index: not counted.
        num_classes: C.

    Returns:
        int64 [num_classes, num_classes + 1]: row = true class, column = predicted class. The last column counts the
        pixels without a predicted class: they are missed pixels of their true class, and of no other.

    Raises:
        UserError: the shapes differ, or a value is neither a class nor the ignore index.
    """
    check_labels(labels, truth, num_classes)
    if labels.dtype == np.uint8 and labels.size:
        pairs = _pairs_of_bytes(labels, truth)
        return np.concatenate([pairs[:num_classes, :num_classes], pairs[:num_classes, -1:]], axis=1)
    # Of two bytes a table of all values would take 32 GB: "no class" becomes the number after the last class.
    known, width = truth < num_classes, num_classes + 1
    rows, columns = truth[known].astype(np.int64), np.minimum(labels[known], num_classes)
    return np.bincount(rows * width + columns, minlength=num_classes * width).reshape(num_classes, width)


def _pairs_of_bytes(labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns the pixels of each pair (truth, label) [256, 256] int64; both maps uint8, of any shape, not empty.

    Neighbours are mostly alike: the lengths of runs of equal pairs are summed up, exactly in float64.
    """
    pair = truth.astype(np.uint16).ravel() << 8 | labels.ravel()
    ends = np.append(pair[1:] != pair[:-1], True)
    if np.count_nonzero(ends) > pair.size // 8:  # so many short runs take longer than their pixels
        return np.bincount(pair, minlength=1 << 16).reshape(256, 256)
    last = np.flatnonzero(ends)
    return np.bincount(pair[last], np.diff(last, prepend=-1), minlength=1 << 16).astype(np.int64).reshape(256, 256)


def check_labels(labels: np.ndarray, truth: np.ndarray, num_classes: int) -> None:
    """Checks that a label map can be scored against its truth; both of `label_dtype`.

    Raises:
        UserError: the shapes differ, or a value is neither a class nor the ignore index.
    """
    if labels.shape != truth.shape:
        raise UserError(f"prediction has size {labels.shape}, its mask {truth.shape}")
    for values, what in ((truth, "mask"), (labels, "prediction")):
        # In the maps' own arithmetic, the ignore index comes before class 0.
        if values.size and int((values + values.dtype.type(1)).max()) > num_classes:
            raise UserError(f"{what} has a value outside 0..{num_classes - 1} and {ignore_index(values.dtype)}")


def iou(confusion: np.ndarray) -> np.ndarray:
    """Returns each class's intersection over union [num_classes] float64; NaN where neither has a pixel of it."""
    num_classes = confusion.shape[0]
    hit = np.diagonal(confusion).astype(np.float64)
    union = confusion.sum(axis=1) + confusion.sum(axis=0)[:num_classes] - hit
    return np.divide(hit, union, out=np.full(num_classes, np.nan), where=union > 0)


def mean_iou(confusion: np.ndarray, convention: str = "vspw") -> float:
    """Returns the mean IoU, 0..1, over the classes that the convention counts; NaN where it counts none.

    Args:
        confusion: as `confusion_matrix` returns it, summed over all frames that are scored.
        convention: "vspw", the challenge's (VSPW_baseline utils.py Evaluator): classes that the truth has;
            "mmseg" (mmseg 0.30 metrics.py, what the paper reports): also classes that only the prediction has, with 0.
    """
    assert convention in CONVENTIONS, convention
    each = iou(confusion)
    counted = confusion.sum(axis=1) > 0 if convention == "vspw" else ~np.isnan(each)
    return float(each[counted].mean()) if counted.any() else float("nan")
