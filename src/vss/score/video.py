"""Counts one video frame by frame, in the memory of a few frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vss.core.confusion import check_labels
from vss.core.label_space import ignore_index
from vss.score import bitmap
from vss.score.boundary import TRIMAP_PIXELS, Contours, band_pixels, frame_band
from vss.score.consistency import PERSISTENT_COLUMNS, WINDOW_COLUMNS, WINDOW_LENGTHS, ConstantRun
from vss.score.counts import FRAME_COLUMNS


@dataclass(frozen=True)
class LabelledPixels:
    """The pixels of a frame whose truth has a class, grouped by all that any measure asks of them (K groups).

    Attributes:
        pixels: number of pixels of each group [K] int64.
        truth, labels: their train ids in truth and prediction [K]; a prediction may be no class.
        within: by bitmap that they were grouped by, whether it is set there [K] bool.
    """

    pixels: np.ndarray
    truth: np.ndarray
    labels: np.ndarray
    within: Sequence[np.ndarray]

    def total(self, chosen: np.ndarray) -> int:
        """Returns the number of pixels of the groups chosen [K] bool."""
        return int(self.pixels[chosen].sum())

    def by_class(self, ids: np.ndarray, chosen: np.ndarray, num_classes: int) -> np.ndarray:
        """Returns the pixels of the groups chosen [K] bool by their train id in `ids` [K]: [num_classes] int64."""
        counted = np.bincount(ids[chosen], self.pixels[chosen], minlength=num_classes)
        return counted[:num_classes].astype(np.int64)


class VideoCounter:
    """Counts the pixels of one video.

    What is not counted by class is counted in bitmaps, all else in the groups of `LabelledPixels`, so that a frame is
    passed over once, however many measures there are. All T-n+1 windows of a video of T frames are counted; the
    official rule, which leaves the last one out, is applied when they are summed up.
    """

    def __init__(self, video: int, num_classes: int) -> None:
        self._video, self._num_classes = video, num_classes
        self._frames = 0
        self.skip()
        self._windows: list[tuple[int, ...]] = []
        self._persistent: list[np.ndarray] = []
        self._frame_pixels: list[tuple[int, int, int, int]] = []
        self.confusion = np.zeros((num_classes, num_classes + 1), np.int64)
        self._boundary = np.zeros((num_classes, 3), np.int64)
        self._trimap = np.zeros(2, np.int64)

    def skip(self) -> None:
        """Takes a frame without a mask: no window reaches over it."""
        self._in_a_row = 0
        self._known_before: np.ndarray | None = None
        self._raw, self._merged, self._truth, self._labels, self._labelled = (ConstantRun() for _ in range(5))

    def add(self, *, raw: np.ndarray, truth: np.ndarray, labels: np.ndarray) -> None:
        """Takes the next frame.

        Args:
            raw: raw mask ids [H, W] uint8 or uint16.
            truth: the same mask as train ids [H, W] (`label_dtype`).
            labels: predicted train ids [H, W] of the same dtype.

        Raises:
            UserError: prediction and mask differ in size, or a value is neither a class nor the ignore index.
        """
        check_labels(labels, truth, self._num_classes)
        self._frames += 1
        self._in_a_row += 1
        without = truth == ignore_index(truth.dtype)
        known = bitmap.pack(~without)
        right = bitmap.pack(truth == labels) & known
        self._follow(raw, truth, labels, known)

        # Per window that ends here: where the truth keeps a class, and where the prediction does.
        windows = [number for number in WINDOW_LENGTHS if self._in_a_row >= number]
        constant = {number: self._truth.constant(number) & known for number in windows}
        kept = {number: self._labels.constant(number) for number in windows}
        kept_labelled = {number: self._labelled.constant(number) for number in windows}
        for number in windows:
            self._count_window(number, constant[number], kept[number], right)

        # Where the truth has no class the prediction has no contour either: a perfect one meets every boundary.
        seen = labels | without * truth.dtype.type(ignore_index(truth.dtype))
        contours = Contours(truth), Contours(seen)
        width = band_pixels(*truth.shape)
        edge = frame_band(*truth.shape, width)
        maps = [*(each.band(width) | edge for each in contours), contours[0].band(TRIMAP_PIXELS)]
        for number in windows:
            maps += constant[number], kept_labelled[number]
        frame = _grouped(truth, seen, contours, [each & known for each in maps])
        self._count_frame(frame)
        for at, number in enumerate(windows):
            self._count_classes(number, frame, *frame.within[3 + 2 * at :][:2])

    def tables(self) -> dict[str, np.ndarray]:
        """Returns what the video adds to the tables of `Counts`, int64, but for those of confusion and calibration."""
        number = np.full(self._num_classes, self._video)
        boundary = np.stack([number, np.arange(self._num_classes), *self._boundary.T], axis=1)
        return {
            "windows": np.array(self._windows, np.int64).reshape(-1, len(WINDOW_COLUMNS)),
            "persistent": np.concatenate([np.zeros((0, len(PERSISTENT_COLUMNS)), np.int64), *self._persistent]),
            "boundary": boundary[boundary[:, 2:].any(axis=1)].astype(np.int64),
            "frame_pixels": np.array(self._frame_pixels, np.int64).reshape(-1, len(FRAME_COLUMNS)),
            "trimap": self._trimap[None],
        }

    def _follow(self, raw: np.ndarray, truth: np.ndarray, labels: np.ndarray, known: np.ndarray) -> None:
        """Takes a frame up into the runs of equal values."""
        self._raw.add(raw)
        self._merged.add(raw * (raw != ignore_index(truth.dtype)))  # void becomes 0, "others"
        self._truth.add(truth)
        self._labels.add(labels)
        before = self._known_before
        same_size = before is not None and before.shape == known.shape
        self._labelled.add(labels, only=known & before if same_size else None)
        self._known_before = known

    def _count_window(self, length: int, constant: np.ndarray, kept: np.ndarray, right: np.ndarray) -> None:
        """Counts the pixels of the window that ends at this frame, `PIXEL_COLUMNS`."""
        pixels = []
        for run in (self._raw, self._merged):
            region = run.constant(length)
            pixels += [bitmap.count(region), bitmap.count(region & kept)]
        both = constant & kept
        pixels += [bitmap.count(constant), bitmap.count(both), bitmap.count(both & right)]
        self._windows.append((length, self._video, self._frames - length, *pixels))

    def _count_frame(self, frame: LabelledPixels) -> None:
        band, predicted_band, near = frame.within[:3]
        right = frame.truth == frame.labels
        predicted = np.minimum(frame.labels, self._num_classes)
        np.add.at(self.confusion, (frame.truth, predicted), frame.pixels)
        self._frame_pixels.append((self._video, self._frames - 1, int(frame.pixels.sum()), frame.total(right)))
        self._boundary += self._by_class(frame, band, predicted_band, right & band & predicted_band)
        self._trimap += frame.total(near), frame.total(near & right)

    def _count_classes(self, length: int, frame: LabelledPixels, constant: np.ndarray, kept: np.ndarray) -> None:
        """Counts the pixels of each class over the window that ends at this frame, `PERSISTENT_COLUMNS`."""
        persistent = self._by_class(frame, constant, kept, constant & kept & (frame.truth == frame.labels))
        present = np.flatnonzero(persistent.any(axis=1))
        head = np.broadcast_to([length, self._video, self._frames - length], (len(present), 3))
        self._persistent.append(np.concatenate([head, present[:, None], persistent[present]], axis=1))

    def _by_class(
        self, frame: LabelledPixels, in_truth: np.ndarray, in_labels: np.ndarray, in_both: np.ndarray
    ) -> np.ndarray:
        """Returns the pixels of each class among groups of the truth, of the prediction, and of both [C, 3] int64."""
        chosen = (frame.truth, in_truth), (frame.labels, in_labels), (frame.truth, in_both)
        return np.stack([frame.by_class(ids, groups, self._num_classes) for ids, groups in chosen], axis=1)


def _grouped(
    truth: np.ndarray, labels: np.ndarray, contours: Sequence[Contours], maps: Sequence[np.ndarray]
) -> LabelledPixels:
    """Groups the pixels of a frame that have a class.

    Neighbours are mostly alike: what is grouped are runs of equal pixels in rows, a tenth of the pixels or fewer.

    Args:
        truth, labels: [H, W], both uint8 or both uint16.
        contours: of both.
        maps: at most 8 bitmaps.
    """
    height, width = truth.shape
    # A run starts where a row does, right of a contour, and where a bitmap changes.
    first = np.zeros_like(maps[0])
    first[:, 0] = 1
    first |= bitmap.shifted_right(contours[0].right | contours[1].right)
    for each in maps:
        first |= each ^ bitmap.shifted_right(each)
    start = np.flatnonzero(bitmap.unpack(first, width))

    # One number each: truth, labels, bitmaps, and in the bits that are left the length, which is that of a row at most.
    bits = np.uint64(8 * truth.itemsize)
    length_bits = np.uint64(56) - bits - bits
    run = truth.ravel()[start].astype(np.uint64) << bits | labels.ravel()[start]
    run = run << np.uint64(8) | bitmap.joined_at(maps, start, width)
    run = run << length_bits | np.diff(start, append=height * width).astype(np.uint64)

    # Runs of one kind lie together once they are sorted, and their lengths are summed up.
    run.sort()
    no_class = np.uint64(ignore_index(truth.dtype))
    run = run[
        : np.searchsorted(run, no_class << (bits + np.uint64(8) + length_bits))
    ]  # the truth of the others has none
    kind = run >> length_bits
    groups = np.flatnonzero(np.diff(kind, prepend=np.uint64(2**64 - 1)))
    pixels = (
        np.add.reduceat(run & ((np.uint64(1) << length_bits) - np.uint64(1)), groups).astype(np.int64)
        if len(run)
        else run.astype(np.int64)
    )
    found = kind[groups]
    states = found & np.uint64(255)
    return LabelledPixels(
        pixels=pixels,
        truth=(found >> (bits + np.uint64(8))).astype(truth.dtype),
        labels=(found >> np.uint64(8)).astype(truth.dtype),  # its lowest bits
        within=[(states >> np.uint64(place) & np.uint64(1)).astype(bool) for place in range(len(maps))],
    )
