"""Measures of windows and of boundaries, from the counts of whole videos."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from vss.score.boundary import BOUNDARY_COLUMNS
from vss.score.consistency import PERSISTENT_COLUMNS, WINDOW_COLUMNS
from vss.score.counts import Counts

CFFM_SKIPPED_FRAMES = 16  # CFFM's script leaves out videos of up to 16 frames, for mIoU as well

# Which column of a window stands over which, and whether the last window of a video counts.
_VC_RULES = {
    "official": ("official_kept", "official", False),
    "cffm": ("merged_kept", "merged", False),
    "strict": ("strict_kept", "strict", True),
    "correct": ("strict_correct", "strict", True),
}


def window_consistency(counts: Counts, length: int, rule: str, videos: Iterable[int] | None = None) -> np.ndarray:
    """Returns VC of every window that has a constant pixel, in the order of video and start.

    Args:
        counts: of whole videos.
        length: n, one of `WINDOW_LENGTHS`.
        rule: "official", "cffm", "strict" or "correct" (see `overall_scores`).
        videos: video numbers to take, by default all.
    """
    return _of_videos(*_window_consistency(counts, length, rule), videos)


def each_video(counts: Counts, length: int, rule: str | None) -> list[np.ndarray]:
    """Returns each video's part of `window_consistency`, or of `effective_consistency` where the rule is None."""
    found = _effective_consistency(counts, length) if rule is None else _window_consistency(counts, length, rule)
    values, video = found
    return np.split(values, np.searchsorted(video, np.arange(1, len(counts.videos))))


def window_consistency_by_video(counts: Counts, length: int, rule: str) -> np.ndarray:
    """Returns each video's sum of `window_consistency` and its number of windows [V, 2] float64."""
    return _sums_by_video(*_window_consistency(counts, length, rule), len(counts.videos))


def effective_consistency(counts: Counts, length: int, videos: Iterable[int] | None = None) -> np.ndarray:
    """Returns VEC of every window in which a class persists, in the order of video and start.

    The IoU of a class in a window is that of the pixels whose truth is the class in all its frames and those whose
    prediction is; pixels that are void in one of them are left out of both (DTERN, ICCV 2025, Video Effective
    Consistency).

    Args:
        counts: of whole videos.
        length: n, one of `WINDOW_LENGTHS`.
        videos: video numbers to take, by default all.
    """
    return _of_videos(*_effective_consistency(counts, length), videos)


def effective_consistency_by_video(counts: Counts, length: int) -> np.ndarray:
    """Returns each video's sum of `effective_consistency` and its number of windows [V, 2] float64."""
    return _sums_by_video(*_effective_consistency(counts, length), len(counts.videos))


def _window_consistency(counts: Counts, length: int, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns VC of every window, and the number of its video."""
    kept, constant, with_last = _VC_RULES[rule]
    column = {name: counts.windows[:, at] for at, name in enumerate(WINDOW_COLUMNS)}
    chosen = (column["length"] == length) & (column[constant] > 0)
    if not with_last:
        chosen &= column["start"] < counts.frames[column["video"]] - length
    return column[kept][chosen] / column[constant][chosen], column["video"][chosen]


def _effective_consistency(counts: Counts, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns VEC of every window, and the number of its video."""
    rows = counts.persistent[counts.persistent[:, PERSISTENT_COLUMNS.index("length")] == length]
    if not len(rows):
        return np.zeros(0), np.zeros(0, np.int64)
    column = dict(zip(PERSISTENT_COLUMNS, rows.T, strict=True))
    each = column["both"] / (column["truth"] + column["predicted"] - column["both"])
    # Rows of a window lie together: `merge_counts` sorts by length, video, start, class.
    window = rows[:, [PERSISTENT_COLUMNS.index("video"), PERSISTENT_COLUMNS.index("start")]]
    first = np.flatnonzero(np.r_[True, (window[1:] != window[:-1]).any(axis=1)])
    return np.add.reduceat(each, first) / np.diff(np.r_[first, len(each)]), column["video"][first]


def _of_videos(values: np.ndarray, video: np.ndarray, videos: Iterable[int] | None) -> np.ndarray:
    return values if videos is None else values[np.isin(video, list(videos))]


def _sums_by_video(values: np.ndarray, video: np.ndarray, videos: int) -> np.ndarray:
    return np.stack([np.bincount(video, weights, minlength=videos) for weights in (values, None)], axis=1)


def boundary_iou(counts: Counts, videos: Sequence[int] | None = None) -> np.ndarray:
    """Returns each class's boundary IoU [C] float64 over some videos (numbers), by default all; NaN without pixels."""
    table = counts.boundary
    if videos is not None:
        table = table[np.isin(table[:, BOUNDARY_COLUMNS.index("video")], list(videos))]
    pixels = np.zeros((len(counts.classes), 3), np.int64)
    np.add.at(pixels, table[:, BOUNDARY_COLUMNS.index("class")], table[:, -3:])
    truth, predicted, both = pixels.T
    union = truth + predicted - both
    return np.divide(both, union, out=np.full(len(union), np.nan), where=union > 0)


def mean_boundary_iou(counts: Counts, videos: Sequence[int] | None = None) -> float:
    """Returns the mean boundary IoU over the classes that the truth has, NaN where it has none."""
    each = boundary_iou(counts, videos)[counts.confusion(videos).sum(axis=1) > 0]
    return float(each.mean()) if len(each) else math.nan
