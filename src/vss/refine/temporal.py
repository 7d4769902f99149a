"""Temporal refinement: the predictions of neighbouring frames, moved along optical flow, vote on every pixel.

Image models label every frame by itself, so their predictions flicker. Here a frame is seen together with a window of
neighbours before and after it. Displacements of neighbouring frames are chained, and a neighbour's vote counts for less

- the further away it is (`decay`),
- where the way there and back does not end where it began (`consistency`: occlusion, failed flow),
- where the image there looks different from the image here (`photometric`),

and for more where it is a label of a class of thin structures (`thin_weight`): networks miss poles and small lights in
more frames than they see them in, so that a plain majority of labels votes them away.

Where two frames share next to nothing (a cut, or one frame per second) the chain ends. Displacements are kept for cells
of 4 x 4 pixels, as in the flow file; votes are counted per pixel, and only where any two votes differ.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import cv2
import numpy as np

from vss.core.label_space import ignore_index
from vss.flow.flow_file import CELL
from vss.refine.soft_labels import SoftLabels

_AGREES = 0.5  # weight from which a cell counts as found again in the next frame
_AHEAD, _BACK = 0, 1  # directions in time
_AT_ONCE = 1 << 11  # cells: few enough for the processor's cache, and for OpenCV
_THIN = 72  # what is not as wide as this part of the frame's shorter side is thin
_SHARE = np.arange(256, dtype=np.float32) / 255  # of a vote, by what scores are stored as


@dataclass(frozen=True)
class TemporalSettings:
    """How neighbours vote; defaults and ranges are in the config's schema (`temporal`).

    Attributes:
        window: neighbouring frames on each side.
        decay: factor on the weight per frame of distance.
        consistency: pixels; at this distance between a pixel and where the way there and back ends, the weight is 1/e.
        photometric: grey levels (of 255); at this difference the weight is 1/e.
        least_overlap: share of a frame that has to be found again in the next one; below it, the chain ends.
        thin_weight: factor on a frame's labels of a class that is thin in most of its pixels there; scores have none.
        votes: "labels", "scores", or None: scores where there are some.
    """

    window: int
    decay: float
    consistency: float
    photometric: float
    least_overlap: float
    thin_weight: float
    votes: str | None


@dataclass(frozen=True)
class PredictedFrame:
    """One frame as the vote sees it.

    Attributes:
        video: its video; neighbours are frames of the same one.
        labels: [H, W] train ids; one of no class has no vote.
        image: [H, W] uint8 grey.
        flow: (forward, backward) [h, w, 2] float32 in pixels per cell, between it and the next frame; None at the end
            of a video and where no flow is known.
        scores: its class scores, which vote in place of the labels; of all frames or of none.
    """

    video: str
    labels: np.ndarray
    image: np.ndarray
    flow: tuple[np.ndarray, np.ndarray] | None
    scores: SoftLabels | None = None


class _VotingFrame:
    """A frame in the window, in the forms that the votes read."""

    def __init__(self, frame: PredictedFrame, settings: TemporalSettings) -> None:
        self.labels, self.flow, self.scores = frame.labels, frame.flow, frame.scores
        self.uniform = _uniform_blocks(frame.labels)
        # Class scores need none: what is seen in few frames has a share of the votes in the others as well.
        self.class_weight = _class_weights(frame.labels, settings.thin_weight if frame.scores is None else 1)
        self.image = cv2.blur(frame.image, (3, 3))
        # Steps to the next frame and to the one before: [h, w, 3] float32, displacement in cells and weight.
        self.step: list[np.ndarray | None] = [None, None]


def _uniform_blocks(labels: np.ndarray) -> np.ndarray:
    """Returns, per pixel, the class of the block of a cell's size that begins there, if all of it has one class."""
    ignored = ignore_index(labels.dtype)
    border = {"borderType": cv2.BORDER_CONSTANT, "borderValue": ignored}
    least, most = (
        change(labels, np.ones((CELL, CELL), np.uint8), anchor=(0, 0), **border) for change in (cv2.erode, cv2.dilate)
    )
    return np.where(least == most, least, labels.dtype.type(ignored))


def _class_weights(labels: np.ndarray, thin_weight: float) -> np.ndarray:
    """Returns the weight [256 or 65536] float32 of votes for every class: `thin_weight` if most of it is thin, else 1.

    A pixel is thin where no square of a `_THIN`th of the frame's shorter side covers it that is all of its class.
    """
    ids = ignore_index(labels.dtype) + 1
    if thin_weight == 1:
        return np.ones(ids, np.float32)
    side = max(1, round(min(labels.shape) / _THIN))
    square, back = np.ones((side, side), np.uint8), (side - 1 - side // 2,) * 2  # the anchor, turned by 180 degrees
    inside = cv2.compare(cv2.erode(labels, square), cv2.dilate(labels, square), cv2.CMP_EQ)
    covered = cv2.dilate(inside, square, anchor=back)
    thick, everywhere = (cv2.calcHist([labels], [0], mask, [ids], [0, ids]).ravel() for mask in (covered, None))
    return np.where(2 * thick < everywhere, np.float32(thin_weight), np.float32(1))


def _by_class(table: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the entries of a table [256 or 65536] at labels."""
    return cv2.LUT(labels, table) if labels.dtype == np.uint8 else table.take(labels)  # LUT is twice as fast


_Neighbour: TypeAlias = tuple[_VotingFrame, np.ndarray, np.ndarray]  # see `_follow`


def smooth(frames: Iterable[PredictedFrame], settings: TemporalSettings) -> Iterator[np.ndarray]:
    """Yields the refined label map [H, W] of every frame, in their order, from a window of them in memory.

    Args:
        frames: videos one after another, each in the order of time.
        settings: of the vote.
    """
    return _in_windows(frames, settings, _vote)


def agreement(frames: Iterable[PredictedFrame], settings: TemporalSettings) -> Iterator[np.ndarray]:
    """Yields per frame [H, W] uint8, in 255ths, the share of the votes that its own labels have; 255 where alone.

    Args:
        frames, settings: as of `smooth`; the votes for all classes weigh alike.
    """
    return _in_windows(frames, replace(settings, thin_weight=1.0), _agreement)


def _in_windows(
    frames: Iterable[PredictedFrame],
    settings: TemporalSettings,
    question: Callable[[_VotingFrame, list[_Neighbour], TemporalSettings], np.ndarray],
) -> Iterator[np.ndarray]:
    """Yields the result of a function of every frame and its neighbours, in the frames' order."""
    window: deque[_VotingFrame] = deque()
    video, at = None, 0  # position in the window of the frame whose turn it is

    def answer(here: int) -> np.ndarray:
        neighbours = [*_follow(window, here, _AHEAD, settings), *_follow(window, here, _BACK, settings)]
        return question(window[here], neighbours, settings)

    for frame in frames:
        if frame.video != video:
            yield from map(answer, range(at, len(window)))
            window.clear()
            video, at = frame.video, 0
        window.append(_VotingFrame(frame, settings))
        if len(window) > 1:
            _link(window[-2], window[-1], settings)
        if len(window) - at > settings.window:
            yield answer(at)
            at += 1
        if at > settings.window:
            window.popleft()
            at -= 1
    yield from map(answer, range(at, len(window)))


def _link(first: _VotingFrame, second: _VotingFrame, settings: TemporalSettings) -> None:
    """Stores in two neighbouring frames the steps from one to the other, unless they share next to nothing."""
    flow, first.flow = first.flow, None
    if flow is None or first.labels.shape != second.labels.shape:
        return
    forward, backward = (displacement / CELL for displacement in flow)
    steps = _step(forward, backward, settings), _step(backward, forward, settings)
    there = _look_up(second.image, _goal(*_grid(forward)), cv2.BORDER_REPLICATE)
    found = steps[0][..., 2] * cv2.LUT(cv2.absdiff(there, first.image[::CELL, ::CELL]), _likeness(settings))
    if (found > _AGREES).mean() >= settings.least_overlap:
        first.step[_AHEAD], second.step[_BACK] = steps


def _step(flow: np.ndarray, back: np.ndarray, settings: TemporalSettings) -> np.ndarray:
    """Returns [h, w, 3] float32: flow in cells, and how well the way back leads to where it began."""
    returned = cv2.remap(back, *_grid(flow), cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(1e4, 1e4))
    error = np.square(flow + returned).sum(axis=2) * (CELL / settings.consistency) ** 2
    return np.dstack([flow, np.exp(-error)]).astype(np.float32, copy=False)


def _grid(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns column and row [h, w] float32 in cells of where every cell is moved to."""
    height, width = flow.shape[:2]
    column = flow[..., 0] + np.arange(width, dtype=np.float32)
    row = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    return column, row


def _goal(column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Returns [h, w, 2] int16 to which pixel (x, y) the first one of every cell is moved; far away is outside."""
    return cv2.convertMaps(column * np.float32(CELL), row * np.float32(CELL), cv2.CV_16SC2, nninterpolation=True)[0]


def _look_up(image: np.ndarray, pixels: np.ndarray, border: int = cv2.BORDER_CONSTANT) -> np.ndarray:
    """Returns an image's values at pixels (x, y) [..., 2] int16; outside it the highest of its dtype, which is no class
    of labels, or, `BORDER_REPLICATE`, the nearest."""
    return cv2.remap(image, pixels, None, cv2.INTER_NEAREST, borderMode=border, borderValue=ignore_index(image.dtype))


def _pairs(pixels: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Returns the pairs of `pixels` [..., 2] int16 at flat positions [n], as [n, 2]."""
    return np.ascontiguousarray(pixels).view(np.int32).reshape(-1).take(at).view(np.int16).reshape(-1, 2)


def _likeness(settings: TemporalSettings) -> np.ndarray:
    """Returns [256] float32 in 0..1 how alike grey values are, by their difference."""
    return np.exp(-np.square(np.arange(256) / settings.photometric)).astype(np.float32)


def _vote(frame: _VotingFrame, neighbours: list[_Neighbour], settings: TemporalSettings) -> np.ndarray:
    """Returns the label map of a frame after its neighbours have voted."""
    # Most cells and all their voters are of one class, or the voters of others weigh less than the cell itself.
    against, _ = _dissent(frame, neighbours)
    least = 1 / settings.thin_weight if frame.scores is None else 0
    own = frame.uniform[::CELL, ::CELL]
    refined = frame.labels.copy()
    for cells in _some(np.flatnonzero((against > least) | (own == ignore_index(own.dtype)))):
        poll = _poll(frame, neighbours, cells, settings)
        # Where the own class has more than half, no other has as much; a hundredth is more than rounding takes.
        chosen = np.flatnonzero((np.float32(1.01) * poll.total > 2 * poll.kept) & poll.inside)
        if not len(chosen):
            continue
        classes, votes = _count(poll.ballots, chosen)

        # A pixel changes where another class has more votes than its own; one without votes stays as it is.
        own = poll.ballots[0].labels.take(chosen)
        slot = np.full(ignore_index(own.dtype) + 1, len(classes))
        slot[classes] = np.arange(len(classes))
        best = votes[:-1].argmax(axis=0)
        number = np.arange(len(chosen))
        wins = votes[best, number] > votes[slot[own], number]
        x, y = _pairs(poll.ballots[0].place, chosen).T
        refined[y, x] = np.where(wins, classes.take(best), own)
    return refined


def _agreement(frame: _VotingFrame, neighbours: list[_Neighbour], settings: TemporalSettings) -> np.ndarray:
    """Returns [H, W] uint8, in 255ths, the share of the votes that the frame's own labels have."""
    # Cells of one class are counted by cell; the others, along boundaries, by pixel.
    against, everybody = _dissent(frame, neighbours)
    share = _in_255ths(1 - against / everybody).repeat(CELL, axis=0).repeat(CELL, axis=1)
    share = np.ascontiguousarray(share[: frame.labels.shape[0], : frame.labels.shape[1]])
    for cells in _some(np.flatnonzero(frame.uniform[::CELL, ::CELL] == ignore_index(frame.uniform.dtype))):
        poll = _poll(frame, neighbours, cells, settings)
        chosen = np.flatnonzero(poll.inside)
        x, y = _pairs(poll.ballots[0].place, chosen).T
        share[y, x] = _in_255ths(poll.kept.take(chosen) / np.maximum(poll.total.take(chosen), 1e-6))
    return share


def _in_255ths(share: np.ndarray) -> np.ndarray:
    return np.rint(share * 255).astype(np.uint8)


def _some(cells: np.ndarray) -> Iterator[np.ndarray]:
    """Yields flat positions of cells, a few at a time."""
    return (cells[start : start + _AT_ONCE] for start in range(0, len(cells), _AT_ONCE))


def _dissent(frame: _VotingFrame, neighbours: Sequence[_Neighbour]) -> tuple[np.ndarray, np.ndarray]:
    """Returns [h, w] float32 the weight of the neighbours that are not wholly of a cell's class, and of all voters."""
    own = frame.uniform[::CELL, ::CELL]
    against, everybody = np.zeros(own.shape, np.float32), np.ones(own.shape, np.float32)
    for neighbour, goal, weight in neighbours:
        cv2.accumulate(weight, against, cv2.compare(_look_up(neighbour.uniform, goal), own, cv2.CMP_NE))
        everybody += weight
    return against, everybody


@dataclass(frozen=True)
class _Poll:
    """The votes on some cells of a frame; all arrays are [16, m]: the cells' first pixels, their second ones, ...

    Attributes:
        ballots: the frame's own, and its neighbours'.
        total: float32 weight of all votes, at most.
        kept: float32 share of it that goes to the pixel's own class at least.
        inside: bool, False where a cell reaches over the frame's edge.
    """

    ballots: list[_Ballot]
    total: np.ndarray
    kept: np.ndarray
    inside: np.ndarray


def _poll(
    frame: _VotingFrame, neighbours: Sequence[_Neighbour], cells: np.ndarray, settings: TemporalSettings
) -> _Poll:
    """Returns the votes on some cells, given by their flat positions [m]."""
    # The cells' pixels as (x, y) [16, m, 2].
    inner = np.stack(np.divmod(np.arange(CELL * CELL, dtype=np.int16), CELL)[::-1], axis=1)
    inner = np.repeat(inner[:, None], len(cells), axis=1)
    row, column = np.divmod(cells, -(-frame.labels.shape[1] // CELL))
    home = (CELL * np.stack([column, row], axis=1)).astype(np.int16) + inner

    # Every voter's label and weight.
    mine, grey = _look_up(frame.labels, home), _look_up(frame.image, home, cv2.BORDER_REPLICATE)
    likeness = _likeness(settings)
    ballots = [_Ballot(frame, home, mine, np.ones(mine.shape, np.float32))]
    for neighbour, goal, weight in neighbours:
        place = _pairs(goal, cells) + inner
        alike = cv2.LUT(cv2.absdiff(_look_up(neighbour.image, place, cv2.BORDER_REPLICATE), grey), likeness)
        ballots.append(_Ballot(neighbour, place, _look_up(neighbour.labels, place), alike * weight.take(cells)))
    total, kept = np.zeros(mine.shape, np.float32), np.zeros(mine.shape, np.float32)
    for ballot in ballots:
        known = cv2.compare(ballot.labels, ignore_index(ballot.labels.dtype), cv2.CMP_NE)
        surely, at_most = ballot.bounds()
        cv2.accumulate(at_most, total, known)
        cv2.accumulate(surely, kept, cv2.bitwise_and(known, cv2.compare(ballot.labels, mine, cv2.CMP_EQ)))
    inside = (home[..., 0] < frame.labels.shape[1]) & (home[..., 1] < frame.labels.shape[0])
    return _Poll(ballots, total, kept, inside)


def _count(ballots: Sequence[_Ballot], chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids of the classes that have votes [C], and the votes at chosen pixels [C + 1, P] float32.

    The last row is that of no class, and zero.
    """
    dtype = ballots[0].labels.dtype
    present = np.zeros(ignore_index(dtype) + 1, bool)
    for ballot in ballots:
        present[ballot.classes(chosen)] = True
    present[-1] = False
    classes = np.flatnonzero(present).astype(dtype)
    slot = np.full(len(present), len(classes))
    slot[classes] = np.arange(len(classes))
    votes = np.zeros((len(classes) + 1, len(chosen)), np.float32)
    for ballot in ballots:
        ballot.add_to(votes, slot, chosen)
    votes[-1] = 0
    return classes, votes


@dataclass(frozen=True)
class _Ballot:
    """How one frame votes on some pixels of another.

    Attributes:
        voter: the frame.
        place: [16, m, 2] int16 where it sees them (x, y).
        labels: [16, m] its labels there; no class is unknown or outside.
        weight: [16, m] float32 of its votes, but for the class's.
    """

    voter: _VotingFrame
    place: np.ndarray
    labels: np.ndarray
    weight: np.ndarray

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns [16, m] float32 the votes for the labels' class, and for all classes at most."""
        if self.voter.scores is None:
            votes = self.weight * _by_class(self.voter.class_weight, self.labels)
            return votes, votes
        return self.weight * cv2.LUT(_look_up(self.voter.scores.top, self.place), _SHARE), self.weight

    def classes(self, chosen: np.ndarray) -> np.ndarray:
        """Returns the classes that may get votes at chosen pixels; they may repeat."""
        return self.labels.take(chosen) if self.voter.scores is None else self.voter.scores.classes

    def add_to(self, votes: np.ndarray, slot: np.ndarray, chosen: np.ndarray) -> None:
        """Adds its votes at chosen pixels to [C + 1, P], where `slot` [256 or 65536] has the row of every class."""
        labels, weight = self.labels.take(chosen), self.weight.take(chosen)
        if self.voter.scores is None:
            bins = slot.take(labels) * len(chosen) + np.arange(len(chosen))  # each once: every pixel has its own
            flat = votes.reshape(-1)
            flat[bins] = flat.take(bins) + weight * self.voter.class_weight.take(labels)
            return
        x, y = _pairs(self.place, chosen).T
        outside = labels == ignore_index(labels.dtype)
        weight[outside] = 0
        at = np.where(outside, 0, y.astype(np.intp) * self.voter.labels.shape[1] + x)
        shares = self.voter.scores.shares
        for row, plane in zip(slot[self.voter.scores.classes], shares.reshape(len(shares), -1), strict=True):
            votes[row] += weight * _SHARE.take(plane.take(at))


def _follow(window: deque[_VotingFrame], at: int, direction: int, settings: TemporalSettings) -> Iterator[_Neighbour]:
    """Yields the neighbours of a frame in one direction of time.

    Yields:
        The neighbour; the pixel to which the first one of every cell is moved [h, w, 2] int16; the weight [h, w]
        float32 of its votes, but for the images' likeness.
    """
    frame = window[at]
    positions = range(at + 1, len(window)) if direction == _AHEAD else range(at - 1, -1, -1)
    step, weight, column, row = frame.step[direction], None, None, None
    for position in list(positions)[: settings.window]:
        if step is None:
            return
        # Go one frame further: from where the chain has led so far, along the flow found there.
        if weight is None:
            weight, (column, row) = step[..., 2] * np.float32(settings.decay), _grid(step)
        else:
            found = cv2.remap(step, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
            column, row = column + found[..., 0], row + found[..., 1]
            weight = weight * found[..., 2] * np.float32(settings.decay)
        yield window[position], _goal(column, row), weight
        step = window[position].step[direction]
