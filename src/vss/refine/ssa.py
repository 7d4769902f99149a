"""Voting over class-agnostic masks, the post-processing step of Semantic-Segment-Anything (SSA).

The rule is that of the authors' `sam/sam_post.py` (DUT-CSJ/PVUW2023-VSS-3rd): masks by area, largest first; each mask
takes the most frequent class of the *original* prediction inside it; smaller masks overwrite larger ones; pixels in no
mask keep their class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vss.core.label_space import ignore_index
from vss.refine.proposals import Proposals
from vss.refine.soft_labels import SoftLabels


@dataclass(frozen=True)
class SsaSettings:
    """Which masks vote, see `vote_proposals`; defaults and ranges are in the config's schema (`ssa`)."""

    min_purity: float
    keep_area: int
    votes: str | None


def vote_proposals(
    labels: np.ndarray,
    proposals: Proposals,
    *,
    scores: SoftLabels | None = None,
    min_purity: float = 0.0,
    keep_area: int = 0,
) -> np.ndarray:
    """Returns the label map after every proposal has voted on the original one.

    Masks are ordered by their number of pixels, descending and stable, and painted in that order. Empty masks, and
    masks that hold no class, are skipped. Where two classes have equally many pixels in a mask the
    smaller id wins, as in the authors' run (`torch.topk` on CUDA takes equal values in index order).

    Args:
        labels: [H, W] train ids; pixels of no class have no vote but may be painted.
        proposals: the masks of this frame.
        scores: the class scores that are summed over every mask, in place of its pixels' labels. The authors count
            labels.
        min_purity: in [0, 1]; a mask is painted only if its winner has at least this share of its known pixels, or of
            its scores.
            0 is the authors' behaviour.
        keep_area: pixels; a class that has at most this many in the whole frame is never painted over, so that small
            classes do not vanish. 0 is the authors' behaviour.
    """
    assert labels.shape == proposals.size, (labels.shape, proposals.size)
    pixels, counts = proposals.pixels()
    votes = count_votes(labels, pixels, counts, scores)
    return paint(labels, pixels, counts, votes, min_purity=min_purity, keep_area=keep_area)


def count_votes(
    labels: np.ndarray, pixels: np.ndarray, counts: np.ndarray, scores: SoftLabels | None = None
) -> np.ndarray:
    """Returns [M, K] votes by mask and by class up to the highest one: numbers of pixels, or sums of scores.

    Args:
        labels, scores: as of `vote_proposals`.
        pixels, counts: the masks, as of `Proposals.pixels`.
    """
    if scores is None:
        return _class_histogram(labels.ravel()[pixels], counts)
    return _summed(scores, pixels, counts)


def paint(
    labels: np.ndarray,
    pixels: np.ndarray,
    counts: np.ndarray,
    histogram: np.ndarray,
    *,
    min_purity: float,
    keep_area: int,
) -> np.ndarray:
    """Returns the label map with every mask in the class that has most of its votes [M, K], the smallest mask last.

    Arguments as of `vote_proposals` and `count_votes`.
    """
    flat = labels.ravel()
    votes, known = histogram.max(axis=1, initial=0), histogram.sum(axis=1)
    winner = histogram.argmax(axis=1) if len(counts) else np.zeros(0, int)  # of equal counts the smallest id
    painted = (votes > 0) & (votes >= min_purity * known)

    # Paint all masks in one assignment: where an index repeats, numpy keeps the last value, that of the smallest mask.
    order = np.argsort(-counts, kind="stable")
    order = order[painted[order]]
    refined = flat.copy()
    target = pixels[_concatenated_ranges(np.cumsum(counts)[order] - counts[order], counts[order])]
    colour = np.repeat(winner[order].astype(labels.dtype), counts[order])
    if keep_area:
        frame_area = np.bincount(flat)
        free = ((frame_area > keep_area) | (np.arange(len(frame_area)) == ignore_index(flat.dtype)))[flat[target]]
        target, colour = target[free], colour[free]
    refined[target] = colour
    return refined.reshape(labels.shape)


def _class_histogram(classes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns [M, K] numbers of pixels by mask and class, from the masks' pixel classes one after another."""
    known = classes != ignore_index(classes.dtype)
    row, classes = np.repeat(np.arange(len(counts)), counts)[known], classes[known]
    width = 1 + int(classes.max(initial=0))
    return np.bincount(row * width + classes, minlength=width * len(counts)).reshape(len(counts), width)


def _summed(scores: SoftLabels, pixels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns [M, K] sums of the masks' scores by class, from the masks' pixels one after another."""
    sums = np.zeros((len(counts), 1 + int(scores.classes.max(initial=0))), np.int64)
    full = np.flatnonzero(counts)
    starts = (np.cumsum(counts) - counts)[full]  # reduceat sums from each start to the next
    if len(full):
        for label, plane in zip(scores.classes, scores.shares.reshape(len(scores.shares), -1), strict=True):
            sums[full, label] = np.add.reduceat(plane.take(pixels), starts, dtype=np.int64)
    return sums


def _concatenated_ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns the indices start..start+length-1 of every range, one range after another."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) - np.repeat(ends - lengths - starts, lengths)
