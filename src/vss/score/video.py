"""Counts one video frame by frame, in the memory of a few frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vss.core.confusion import check_labels
from vss.core.label_space import ignore_index
from vss.score import bitmap
from vss.score.boundary import TRIMAP_PIXELS, Contours, band_pixels, frame_band
from vss.score.consistency import PERSISTENT_COLUMNS, WINDOW_COLUMNS, WINDOW_LENGTHS, Conjunctions, ConstantRun
from vss.score.counts import FRAME_COLUMNS


@dataclass(frozen=True)
class LabelledPixels:
    """The pixels of a frame whose truth has a class, by truth, prediction and by all else that any measure asks.

    Attributes:
        truth, labels: train ids of each pair that is in the frame [K]; a prediction may be no class.
        pixels: number of pixels of each pair, by the bitmaps that they are set in: bit k for the k-th [K, S] float64.
    """

    truth: np.ndarray
    labels: np.ndarray
    pixels: np.ndarray

    def by_class(self, bitmaps: Sequence[tuple[int, int]], num_classes: int) -> np.ndarray:
        """Returns the pixels of each class in pairs of regions: one of the truth's and one of the prediction's.

        Args:
            bitmaps: the numbers of each pair's bitmaps.
            num_classes: number of classes.

        Returns:
            [P, num_classes, 3] int64: of the truth in its region, of the prediction in its, of both in both.
        """
        states = np.arange(self.pixels.shape[1])
        in_truth, in_labels = np.array(bitmaps).T[:, None, :]
        in_truth, in_labels = states[:, None] >> in_truth & 1, states[:, None] >> in_labels & 1
        right = self.truth == self.labels
        total = np.zeros((3, num_classes + 1, len(bitmaps)))
        np.add.at(total[0], self.truth, self.pixels @ in_truth)
        np.add.at(total[1], np.minimum(self.labels, num_classes), self.pixels @ in_labels)
        total[2, self.truth[right]] = self.pixels[right] @ (in_truth & in_labels)
        return total[:, :num_classes].astype(np.int64).transpose(2, 1, 0)


class VideoCounter:
    """Counts the pixels of one video.

    What is not counted by class is counted in bitmaps, all else in `LabelledPixels`, so that a frame is
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
        self._raw, self._merged, self._truth, self._labels = (ConstantRun() for _ in range(4))
        self._known = Conjunctions()

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
        # Where the truth has no class the prediction has no contour either: a perfect one meets every boundary.
        known, right, seen = bitmap.labelled(truth, labels)
        self._follow(raw, truth, labels, known)

        # Per window that ends here: where the truth keeps a class, and where the prediction does.
        windows = [number for number in WINDOW_LENGTHS if self._in_a_row >= number]
        constant = {number: self._truth.constant(number) & known for number in windows}
        kept = {number: self._labels.constant(number) for number in windows}
        for number in windows:
            self._count_window(number, constant[number], kept[number], right)

        contours = Contours(truth), Contours(seen)
        width = band_pixels(*truth.shape)
        edge = frame_band(*truth.shape, width)
        near = contours[0].band(TRIMAP_PIXELS) & known
        self._trimap += bitmap.count(near), bitmap.count(near & right)

        # What is counted by class: pairs of a region of the truth and one of the prediction.
        maps = [(each.band(width) | edge) & known for each in contours]
        for number in windows:
            always_known = self._known.of(number)
            maps += constant[number], kept[number] & (known if always_known is None else always_known)
        frame = _labelled_pixels(truth, seen, contours, maps)
        self._count_frame(frame)
        in_band, *in_windows = frame.by_class([(at, at + 1) for at in range(0, len(maps), 2)], self._num_classes)
        self._boundary += in_band
        for number, persistent in zip(windows, in_windows, strict=True):
            self._add_persistent(number, persistent)

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
        self._known.add(known)

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
        pixels = frame.pixels.sum(axis=1).astype(np.int64)
        right = pixels[frame.truth == frame.labels].sum()
        np.add.at(self.confusion, (frame.truth, np.minimum(frame.labels, self._num_classes)), pixels)
        self._frame_pixels.append((self._video, self._frames - 1, int(pixels.sum()), int(right)))

    def _add_persistent(self, length: int, persistent: np.ndarray) -> None:
        """Adds the pixels of each class [C, 3] over the window that ends at this frame, `PERSISTENT_COLUMNS`."""
        present = np.flatnonzero(persistent.any(axis=1))
        head = np.broadcast_to([length, self._video, self._frames - length], (len(present), 3))
        self._persistent.append(np.concatenate([head, present[:, None], persistent[present]], axis=1))


def _labelled_pixels(
    truth: np.ndarray, labels: np.ndarray, contours: Sequence[Contours], maps: Sequence[np.ndarray]
) -> LabelledPixels:
    """Counts the pixels of a frame that have a class, by all that any measure asks of them.

    Neighbours are mostly alike: what is counted are runs of equal pixels in rows, a tenth of the pixels or fewer.

    Args:
        truth, labels: [H, W] of train ids.
        contours: of both.
        maps: at most 8 bitmaps.
    """
    if (found := bitmap.counted_runs(truth, labels, [each.right for each in contours], maps)) is not None:
        (of_truth, of_labels), pixels = found[0].T, found[1]
        known = of_truth != ignore_index(truth.dtype)
        return LabelledPixels(truth=of_truth[known], labels=of_labels[known], pixels=pixels[known])

    height, width = truth.shape
    # A run starts where a row does, right of a contour, and where a bitmap changes.
    first = np.zeros_like(maps[0])
    first[:, 0] = 1
    first |= bitmap.shifted_right(contours[0].right | contours[1].right)
    for each in maps:
        first |= each ^ bitmap.shifted_right(each)
    start = bitmap.positions(first, width)

    # Number the pairs of truth and prediction that there are: tables of all that there could be are larger.
    of_truth, truth_number = _numbered(truth.ravel().take(start))
    of_labels, labels_number = _numbered(labels.ravel().take(start))
    pairs, number = _numbered(truth_number * len(of_labels) + labels_number)

    # Sum up the lengths of the runs of one pair that are set in the same bitmaps; the sums are exact in float64.
    states = 1 << len(maps)
    key = number * states + bitmap.joined_at(maps, start, width).view(np.int64)
    pixels = np.bincount(key, np.diff(start, append=height * width), minlength=len(pairs) * states)
    truth_of_pair = of_truth[pairs // len(of_labels)]
    known = truth_of_pair != ignore_index(truth.dtype)
    return LabelledPixels(
        truth=truth_of_pair[known],
        labels=of_labels[pairs[known] % len(of_labels)],
        pixels=pixels.reshape(-1, states)[known],
    )


def _numbered(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct ones of small whole numbers [N], ascending, and the position of each number among them."""
    distinct = np.flatnonzero(np.bincount(values))
    number = np.zeros(distinct[-1] + 1, np.int64)
    number[distinct] = np.arange(len(distinct))
    return distinct, number.take(values)
