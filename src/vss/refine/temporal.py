"""Temporal refinement: the predictions of neighbouring frames, moved along optical flow, vote on every pixel.

Image models label every frame by itself, so their predictions flicker. Here a frame is seen together with a window of
neighbours before and after it. Displacements of neighbouring frames are chained, and a neighbour's vote counts for less

- the further away it is (`decay`),
- where the way there and back does not end where it began (`consistency`: occlusion, failed flow),
- where the image there looks different from the image here (`photometric`).

Where two frames share next to nothing (a cut, or one frame per second) the chain ends. Displacements are kept for cells
of 4 x 4 pixels, as in the flow file; votes are counted per pixel, and only where any two votes differ.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from vss.core.labels import IGNORE_INDEX
from vss.refine.flow_file import CELL

_AGREES = 0.5  # weight from which a cell counts as found again in the next frame
_AHEAD, _BACK = 0, 1  # directions in time


@dataclass(frozen=True)
class TemporalSettings:
    """How neighbours vote; defaults and ranges are in the config's schema (`temporal`).

    Attributes:
        window: neighbouring frames on each side.
        decay: factor on the weight per frame of distance.
        consistency: pixels; at this distance between a pixel and where the way there and back ends, the weight is 1/e.
        photometric: grey levels (of 255); at this difference the weight is 1/e.
        least_overlap: share of a frame that has to be found again in the next one; below it, the chain ends.
    """

    window: int
    decay: float
    consistency: float
    photometric: float
    least_overlap: float


@dataclass(frozen=True)
class PredictedFrame:
    """One frame as the vote sees it.

    Attributes:
        video: its video; neighbours are frames of the same one.
        labels: [H, W] uint8 train ids, 255 = unknown: has no vote.
        image: [H, W] uint8 grey.
        flow: (forward, backward) [h, w, 2] float32 in pixels per cell, between it and the next frame; None at the end
            of a video and where no flow is known.
    """

    video: str
    labels: np.ndarray
    image: np.ndarray
    flow: tuple[np.ndarray, np.ndarray] | None


class _Frame:
    """A frame in the window, in the forms that the votes read."""

    def __init__(self, frame: PredictedFrame) -> None:
        self.labels, self.flow = frame.labels, frame.flow
        self.classes = np.flatnonzero(np.bincount(self.labels.ravel(), minlength=256))
        # Whole cells, and around them pixels of no class, so that no position needs to be checked.
        rows, columns = self.labels.shape
        self.size = -(-rows // CELL), -(-columns // CELL)
        border = (CELL, CELL * (self.size[0] + 1) - rows, CELL, CELL * (self.size[1] + 1) - columns)
        self.padded = cv2.copyMakeBorder(self.labels, *border, cv2.BORDER_CONSTANT, value=IGNORE_INDEX)
        self.uniform = _uniform_blocks(self.padded)
        self.image = cv2.copyMakeBorder(cv2.blur(frame.image, (3, 3)), *border, cv2.BORDER_REPLICATE)
        # What leads to the next frame and to the one before: [h, w, 3] float32, displacement in cells and weight.
        self.step: list[np.ndarray | None] = [None, None]


def _uniform_blocks(labels: np.ndarray) -> np.ndarray:
    """Returns, for every pixel, the class of the block of a cell's size that begins there; 255 if it has several."""
    least, most = (
        change(labels, np.ones((CELL, CELL), np.uint8), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT, borderValue=255)
        for change in (cv2.erode, cv2.dilate)
    )
    return np.where(least == most, least, np.uint8(IGNORE_INDEX))


def smooth(frames: Iterable[PredictedFrame], settings: TemporalSettings) -> Iterator[np.ndarray]:
    """Yields the refined label map [H, W] uint8 of every frame, in their order, from a window of them in memory.

    Args:
        frames: videos one after another, each in the order of time.
        settings: of the vote.
    """
    window: deque[_Frame] = deque()
    video, at = None, 0  # position in the window of the frame whose turn it is
    for frame in frames:
        if frame.video != video:
            for here in range(at, len(window)):
                yield _vote(window, here, settings)
            window.clear()
            video, at = frame.video, 0
        window.append(_Frame(frame))
        if len(window) > 1:
            _link(window[-2], window[-1], settings)
        if len(window) - at > settings.window:
            yield _vote(window, at, settings)
            at += 1
        if at > settings.window:
            window.popleft()
            at -= 1
    for here in range(at, len(window)):
        yield _vote(window, here, settings)


def _link(first: _Frame, second: _Frame, settings: TemporalSettings) -> None:
    """Notes in two neighbouring frames what leads from one to the other, unless next to nothing does."""
    flow, first.flow = first.flow, None
    if flow is None or first.labels.shape != second.labels.shape:
        return
    forward, backward = (displacement / CELL for displacement in flow)
    steps = _step(forward, backward, settings), _step(backward, forward, settings)
    corner, offset = _corners(first), _offsets(first, *_grid(forward))
    found = steps[0][..., 2] * _likeness(first.image.ravel()[corner], second.image.ravel()[corner + offset], settings)
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


def _corners(frame: _Frame) -> np.ndarray:
    """Returns the flat position [h, w] of every cell's first pixel in the frame's padded maps."""
    height, width = frame.size
    return (CELL * (np.arange(height)[:, None] + 1)) * frame.padded.shape[1] + CELL * (np.arange(width) + 1)


def _offsets(frame: _Frame, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Returns [h, w] what to add to a flat position where cells are moved to; outside it leads to the padding."""
    height, width = frame.size
    x = np.rint(column * np.float32(CELL)).clip(-CELL, CELL * width).astype(np.intp)
    y = np.rint(row * np.float32(CELL)).clip(-CELL, CELL * height).astype(np.intp)
    y -= CELL * np.arange(height, dtype=np.intp)[:, None]
    return y * frame.padded.shape[1] + x - CELL * np.arange(width, dtype=np.intp)


def _likeness(image: np.ndarray, other: np.ndarray, settings: TemporalSettings) -> np.ndarray:
    """Returns float32 in 0..1 how alike grey values are."""
    table = np.exp(-np.square(np.arange(256) / settings.photometric)).astype(np.float32)
    return table[cv2.absdiff(image, other)]


def _vote(window: deque[_Frame], at: int, settings: TemporalSettings) -> np.ndarray:
    """Returns the label map of the frame at position `at` of the window after its neighbours have voted."""
    frame = window[at]
    neighbours = [*_follow(window, at, _AHEAD, settings), *_follow(window, at, _BACK, settings)]

    # Most pixels and all their voters are of one class, and need no count: first whole cells, then pixels.
    corner = _corners(frame)
    own = frame.uniform.take(corner)
    mixed = own == IGNORE_INDEX
    for neighbour, offset, _ in neighbours:
        mixed |= neighbour.uniform.take(corner + offset) != own
    cells = np.flatnonzero(mixed)
    inside = (np.arange(CELL)[:, None] * frame.padded.shape[1] + np.arange(CELL)).ravel()
    pixels = (corner.take(cells)[:, None] + inside).ravel()
    mine = frame.padded.take(pixels)
    mixed = np.zeros(pixels.shape, bool)
    for neighbour, offset, _ in neighbours:
        mixed |= neighbour.padded.take(pixels + np.repeat(offset.take(cells), len(inside))) != mine
    chosen = np.flatnonzero(mixed)
    if not len(chosen):
        return frame.labels
    pixels, mine, cells = pixels.take(chosen), mine.take(chosen), cells.take(chosen // len(inside))

    # Count the votes of the rest [classes, pixels]; the last class stands for none.
    classes = np.unique(np.concatenate([frame.classes, *(neighbour.classes for neighbour, _, _ in neighbours)]))
    classes = classes[classes != IGNORE_INDEX]
    first_bin = np.full(256, len(classes) * len(pixels))
    first_bin[classes] = np.arange(len(classes)) * len(pixels)
    number = np.arange(len(pixels))
    votes = np.zeros((len(classes) + 1, len(pixels)), np.float32)
    _add_votes(votes, frame, pixels, np.ones(len(pixels), np.float32), first_bin)
    grey = frame.image.take(pixels)
    for neighbour, offset, weight in neighbours:
        place = pixels + offset.take(cells)
        alike = _likeness(neighbour.image.take(place), grey, settings)
        _add_votes(votes, neighbour, place, alike * weight.take(cells), first_bin)

    # A pixel changes where another class has more votes than its own; what nobody knows stays as it is.
    votes[-1] = 0
    best = votes.argmax(axis=0)
    mine_votes, most = (votes.reshape(-1).take(bins + number) for bins in (first_bin.take(mine), best * len(pixels)))
    refined = frame.padded.copy()
    refined.reshape(-1)[pixels] = np.where(most > mine_votes, np.append(classes, IGNORE_INDEX).take(best), mine)
    rows, columns = frame.labels.shape
    return np.ascontiguousarray(refined[CELL : CELL + rows, CELL : CELL + columns])


def _add_votes(votes: np.ndarray, voter: _Frame, place: np.ndarray, weight: np.ndarray, first_bin: np.ndarray) -> None:
    """Adds a frame's votes at flat positions [pixels], times their weight, to `votes` [classes, pixels]."""
    bins = first_bin.take(voter.padded.take(place)) + np.arange(len(place))  # each once: every pixel has its own
    flat = votes.reshape(-1)
    flat[bins] = flat.take(bins) + weight


def _follow(
    window: deque[_Frame], at: int, direction: int, settings: TemporalSettings
) -> Iterator[tuple[_Frame, np.ndarray, np.ndarray]]:
    """Yields the neighbours of a frame in one direction of time.

    Yields:
        The neighbour; what to add to the flat position of a cell's pixels [h, w]; the weight [h, w] float32 of
        its votes, but for the images' likeness.
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
        yield window[position], _offsets(frame, column, row), weight
        step = window[position].step[direction]
