"""Voting in tubes: masks are linked over time, and all frames of a tube elect its class in each of them.

Superpixels of neighbouring frames are linked along optical flow where each is what most of the other becomes; masks of
objects that were followed through the video (SAM 2) by the objects' ids. A tube lasts as long as its links do; within
it a frame is voted on by its neighbours up to `window` frames away, so that memory does not grow with the video. A
window as long as the video gives every tube one class; a window of 0 lets each frame of it vote alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from vss.flow.flow_file import CELL
from vss.refine.follow import found_again
from vss.refine.proposals import Partitions, RunLengths
from vss.refine.soft_labels import SoftLabels
from vss.refine.ssa import count_votes, paint


@dataclass(frozen=True)
class TubesSettings:
    """How tubes are made and vote; defaults and ranges are in the config's schema (`tubes`).

    Attributes:
        window: neighbouring frames on each side.
        least_overlap: share of a mask's pixels that has to be found in the mask it is linked to.
        min_purity, keep_area, votes: as of `SsaSettings`.
    """

    window: int
    least_overlap: float
    min_purity: float
    keep_area: int
    votes: str | None


@dataclass(frozen=True)
class MaskedFrame:
    """One frame as tubes see it.

    Attributes:
        video: its video; tubes stay within it.
        labels: [H, W] train ids; one of no class has no vote.
        masks: its superpixels, of which the first partition makes the tubes; or masks of objects with ids.
        flow: (forward, backward) [h, w, 2] float32 in pixels per cell, between it and the next frame, or None; for
            superpixels, which are linked along it.
        scores: its class scores, which vote in place of the labels.
    """

    video: str
    labels: np.ndarray
    masks: Partitions | RunLengths
    flow: tuple[np.ndarray, np.ndarray] | None
    scores: SoftLabels | None = None


class _LinkedFrame:
    """A frame in the window: the votes of its masks, and the masks before and after that they are linked to."""

    def __init__(self, frame: MaskedFrame) -> None:
        self.labels, self.flow = frame.labels, frame.flow
        self.masks = Partitions(frame.masks.maps[:1]) if isinstance(frame.masks, Partitions) else frame.masks
        # Painting lists the pixels again: at 8 bytes each they would be most of the window's memory.
        pixels, self.counts = self.masks.pixels()
        histogram = count_votes(frame.labels, pixels, self.counts, frame.scores)
        self.classes = np.flatnonzero(histogram.any(axis=0))
        self.votes = histogram[:, self.classes]
        # For every mask the number of the one it is linked to in the next frame and in the one before; -1 = none.
        self.ahead, self.back = (np.full(len(self.counts), -1) for _ in range(2))


def vote_in_tubes(frames: Iterable[MaskedFrame], settings: TubesSettings) -> Iterator[np.ndarray]:
    """Yields the label map [H, W] of every frame after its tubes have voted, in the frames' order.

    Of two classes with equally many votes the smaller id wins. Pixels in masks without a winner keep their class, and
    no pixel becomes unknown.

    Args:
        frames: videos one after another, each in the order of time.
        settings: of the tubes.
    """
    window: deque[_LinkedFrame] = deque()
    video, at = None, 0  # position in the window of the frame whose turn it is
    for frame in frames:
        if frame.video != video:
            yield from (_elect(window, here, settings) for here in range(at, len(window)))
            window.clear()
            video, at = frame.video, 0
        window.append(_LinkedFrame(frame))
        if len(window) > 1:
            _link(window[-2], window[-1], settings.least_overlap)
        if len(window) - at > settings.window:
            yield _elect(window, at, settings)
            at += 1
        if at > settings.window:
            window.popleft()
            at -= 1
    yield from (_elect(window, here, settings) for here in range(at, len(window)))


def _link(first: _LinkedFrame, second: _LinkedFrame, least_overlap: float) -> None:
    """Links the masks of two neighbouring frames: by their ids, or along optical flow."""
    flow, first.flow = first.flow, None
    if isinstance(first.masks, RunLengths) and isinstance(second.masks, RunLengths):
        assert first.masks.ids is not None and second.masks.ids is not None
        _, here, there = np.intersect1d(first.masks.ids, second.masks.ids, assume_unique=True, return_indices=True)
        first.ahead[here], second.back[there] = there, here
    elif flow is not None and first.labels.shape == second.labels.shape:
        _link_along(flow, first, second, least_overlap)


def _link_along(
    flow: tuple[np.ndarray, np.ndarray], first: _LinkedFrame, second: _LinkedFrame, least_overlap: float
) -> None:
    """Links superpixels, each with the one that holds most of its pixels in the other frame, where that is mutual."""
    assert isinstance(first.masks, Partitions) and isinstance(second.masks, Partitions)
    forward, backward = (_per_pixel(displacement, first.labels.shape) for displacement in flow)
    found, target = found_again(forward, backward)

    # Count pixels by mask here and mask there; the largest share of each decides.
    here, there = first.masks.maps[0].take(found), second.masks.maps[0].take(target).astype(np.int64)
    pairs, shared = np.unique(here * np.int64(len(second.counts)) + there, return_counts=True)
    here, there = np.divmod(pairs, len(second.counts))
    order = np.argsort(shared, kind="stable")
    best_there, best_here = np.full(len(first.counts), -1), np.full(len(second.counts), -1)
    best_there[here[order]], best_here[there[order]] = there[order], here[order]  # the last one, the largest, stays
    mutual = (best_there[here] == there) & (best_here[there] == here)
    enough = shared >= least_overlap * np.maximum(first.counts[here], second.counts[there])
    kept = mutual & enough
    first.ahead[here[kept]], second.back[there[kept]] = there[kept], here[kept]


def _per_pixel(flow: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns flow [h, w, 2] per cell as [H, W, 2] per pixel."""
    return np.ascontiguousarray(flow.repeat(CELL, axis=0).repeat(CELL, axis=1)[: size[0], : size[1]])


def _elect(window: deque[_LinkedFrame], at: int, settings: TubesSettings) -> np.ndarray:
    """Returns the label map of the frame at position `at` of the window after the votes of its tubes."""
    frame = window[at]
    last = min(at + settings.window, len(window) - 1)
    first = max(at - settings.window, 0)
    classes = 1 + max(int(np.max(window[voter].classes, initial=0)) for voter in range(first, last + 1))
    total = np.zeros((len(frame.counts), classes), np.int64)
    total[:, frame.classes] = frame.votes
    for side in (range(at, last), range(at, first, -1)):
        mine, theirs = np.arange(len(frame.counts)), np.arange(len(frame.counts))
        for position in side:
            # One frame further along the links; tubes that end here drop out.
            ahead = side.step == 1
            theirs = (window[position].ahead if ahead else window[position].back)[theirs]
            mine, theirs = mine[theirs >= 0], theirs[theirs >= 0]
            voter = window[position + side.step]
            total[np.ix_(mine, voter.classes)] += voter.votes[theirs]
    guards = {"min_purity": settings.min_purity, "keep_area": settings.keep_area}
    return paint(frame.labels, frame.masks.pixels()[0], frame.counts, total, **guards)
