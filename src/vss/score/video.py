"""Counts one video frame by frame, in the memory of a few frames."""

from __future__ import annotations

import cv2
import numpy as np

from vss.core.confusion import check_labels
from vss.core.labels import IGNORE_INDEX
from vss.score.boundary import TRIMAP_PIXELS, band_pixels, contour_band
from vss.score.consistency import PERSISTENT_COLUMNS, WINDOW_COLUMNS, WINDOW_LENGTHS, ConstantRun

_LEVELS = len(WINDOW_LENGTHS) + 1  # a run fills none of the windows, the first, ..., all
# What is known of a pixel besides its two labels: the windows that its truth and its prediction fill, whether it lies
# in the truth's and in the prediction's boundary band, and whether in the trimap.
_STATES = (_LEVELS, _LEVELS, 2, 2, 2)


class VideoCounter:
    """Counts the pixels of one video.

    Every measure of labelled pixels is a sum over one table of a frame, [true class, predicted class, *states], so that
    a frame is passed over once, however many measures there are. All T-n+1 windows of a video of T frames are counted;
    the official rule, which leaves the last one out, is applied when they are summed up.
    """

    def __init__(self, video: int, num_classes: int) -> None:
        self._video, self._num_classes = video, num_classes
        self._frames = 0
        self.skip()
        self._windows: list[tuple[int, ...]] = []
        self._persistent: list[np.ndarray] = []
        self.confusion = np.zeros((num_classes, num_classes + 1), np.int64)
        self._boundary = np.zeros((num_classes, 3), np.int64)
        self._trimap = np.zeros(2, np.int64)

    def skip(self) -> None:
        """Takes a frame without a mask: no window reaches over it."""
        self._in_a_row = 0
        self._raw, self._merged, self._truth, self._labels, self._labelled = (ConstantRun() for _ in range(5))

    def add(self, *, raw: np.ndarray, truth: np.ndarray, labels: np.ndarray) -> None:
        """Takes the next frame.

        Args:
            raw: raw mask ids [H, W] uint8 or uint16.
            truth: the same mask as train ids [H, W] uint8, 255 = ignore.
            labels: predicted train ids [H, W] uint8.

        Raises:
            UserError: prediction and mask differ in size, or a value is neither a class nor 255.
        """
        check_labels(labels, truth, self._num_classes)
        self._frames += 1
        self._in_a_row += 1
        void = truth == IGNORE_INDEX
        self._raw.add(raw)
        self._merged.add(raw * (raw != IGNORE_INDEX))
        self._truth.add(truth)
        self._labels.add(labels)
        self._labelled.add(labels, but_not=void)

        # The frame's table; rows and columns are the values present, so that it stays small.
        table, true, predicted = self._table(truth, labels, void)
        both = true[:, None] == predicted
        pairs = table.sum(axis=(2, 3, 4, 5, 6))
        self.confusion[np.ix_(true, np.minimum(predicted, self._num_classes))] += pairs
        self._count_boundary(table, true, predicted, both)

        for level, length in enumerate(WINDOW_LENGTHS, start=1):
            if self._in_a_row >= length:
                self._count_window(level, length, table, true, predicted, both)

    def tables(self) -> dict[str, np.ndarray]:
        """Returns what the video adds to the tables of `Counts` but for `flow_cells`, int64."""
        number = np.full(self._num_classes, self._video)
        boundary = np.stack([number, np.arange(self._num_classes), *self._boundary.T], axis=1)
        return {
            "windows": np.array(self._windows, np.int64).reshape(-1, len(WINDOW_COLUMNS)),
            "persistent": np.concatenate([np.zeros((0, len(PERSISTENT_COLUMNS)), np.int64), *self._persistent]),
            "boundary": boundary[boundary[:, 2:].any(axis=1)].astype(np.int64),
            "trimap": self._trimap[None],
        }

    def _table(
        self, truth: np.ndarray, labels: np.ndarray, void: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns counts [T, P, *_STATES] int64 of the labelled pixels, the T true and the P predicted values."""
        width = band_pixels(*truth.shape)
        # Where the truth has no class the prediction has no contour either: a perfect one meets every boundary.
        seen = labels | (void.view(np.uint8) * np.uint8(IGNORE_INDEX))
        state = self._truth.reached()
        for size, value in zip(
            _STATES[1:],
            (
                self._labelled.reached(),
                contour_band(truth, width, frame=True),
                contour_band(seen, width, frame=True),
                contour_band(truth, TRIMAP_PIXELS, frame=False),
            ),
            strict=True,
        ):
            state *= np.uint8(size)
            state += value.view(np.uint8)
        true, true_at = _values(truth)
        predicted, predicted_at = _values(labels)
        states = int(np.prod(_STATES))
        pair = true_at.astype(np.uint16)
        pair *= np.uint16(len(predicted))
        pair += predicted_at
        key = pair.astype(np.int64)
        key *= states
        key += state
        counts = np.bincount(key.ravel(), minlength=len(true) * len(predicted) * states)
        counts = counts.reshape(len(true), len(predicted), *_STATES)
        labelled = true != IGNORE_INDEX
        return counts[labelled], true[labelled], predicted

    def _count_boundary(self, table: np.ndarray, true: np.ndarray, predicted: np.ndarray, both: np.ndarray) -> None:
        bands = table.sum(axis=(2, 3, 6))  # [T, P, truth's band, prediction's band]
        classes = predicted < self._num_classes
        self._boundary[true, 0] += bands[:, :, 1].sum(axis=(1, 2))
        self._boundary[predicted[classes], 1] += bands[:, :, :, 1].sum(axis=(0, 2))[classes]
        self._boundary[true, 2] += (bands[:, :, 1, 1] * both).sum(axis=1)
        trimap = table[..., 1].sum(axis=(2, 3, 4, 5))
        self._trimap += int(trimap.sum()), int((trimap * both).sum())

    def _count_window(
        self, level: int, length: int, table: np.ndarray, true: np.ndarray, predicted: np.ndarray, both: np.ndarray
    ) -> None:
        start = self._frames - length
        # Raw values take part in these without a class: the table does not hold them.
        kept = self._labels.constant(length)
        pixels = []
        for run in (self._raw, self._merged):
            region = run.constant(length)
            pixels += [np.count_nonzero(region), np.count_nonzero(region & kept)]
        runs = table.sum(axis=(4, 5, 6))  # [T, P, windows filled by the truth, by the prediction]
        constant = runs[:, :, level:].sum(axis=2)
        constant_both = constant[:, :, level:].sum(axis=2)
        correct = (constant_both * both).sum(axis=1)  # [T]
        pixels += [constant.sum(), constant_both.sum(), correct.sum()]
        self._windows.append((length, self._video, start, *map(int, pixels)))

        classes = predicted < self._num_classes
        persistent = np.zeros((self._num_classes, 3), np.int64)
        persistent[true, 0] = constant.sum(axis=(1, 2))
        persistent[predicted[classes], 1] = runs[:, :, :, level:].sum(axis=(0, 2, 3))[classes]
        persistent[true, 2] = correct
        present = np.flatnonzero(persistent.any(axis=1))
        head = np.broadcast_to([length, self._video, start], (len(present), 3))
        self._persistent.append(np.concatenate([head, present[:, None], persistent[present]], axis=1))


def _values(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values of a map in ascending order, and the map of their places among them [H, W] uint8."""
    values = np.flatnonzero(cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel())
    place = np.zeros(256, np.uint8)
    place[values] = np.arange(len(values))
    return values, cv2.LUT(labels, place)
