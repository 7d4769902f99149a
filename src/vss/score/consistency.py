"""Video consistency VC_n: how much of what stays the same in the truth stays the same in the prediction.

A window of n frames counts the pixels whose truth is constant over it, and those of them whose prediction is too.
Three readings of one rule are counted side by side, because published numbers use all three (docs/metrics.md):
- official (VSPW_code VC_perclip.py): raw mask values are compared, so that "others" (0) and void (255) take part;
- merged (CFFM VC_perclip.py): raw values with 0 and 255 as one; stray values, such as 252, stay themselves;
- strict: only pixels with a class take part.
None but `strict_correct` asks whether the prediction is right: a constant wrong label is consistent.
"""

from __future__ import annotations

import numpy as np

from vss.core.labels import IGNORE_INDEX

WINDOW_LENGTHS = (8, 16)
# Pixels of one window. `x`: truth constant; `x_kept`: prediction constant as well; `_correct`: and equal to the truth.
PIXEL_COLUMNS = ("official", "official_kept", "merged", "merged_kept", "strict", "strict_kept", "strict_correct")
WINDOW_COLUMNS = ("length", "video", "start", *PIXEL_COLUMNS)


class ConstantRun:
    """How many frames in a row, up to the last one added, each pixel has kept its value.

    One array of this size stands for all windows that end at the last frame, whatever their length up to 255. A frame
    of another size starts again from 1: no pixel of it continues one of the frame before.
    """

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self.length: np.ndarray | None = None  # [H, W] uint8, 1..255

    def add(self, values: np.ndarray) -> None:
        """Takes the next frame's values [H, W] uint8."""
        if self._last is None or self._last.shape != values.shape:
            self.length = np.ones(values.shape, np.uint8)
        else:
            self.length += self.length < 255
            self.length[values != self._last] = 1
        self._last = values

    def constant(self, frames: int) -> np.ndarray:
        """Returns which pixels [H, W] bool kept their value over the last `frames` frames."""
        return self.length >= frames


class VideoWindows:
    """Counts the windows of one video, frame by frame, in the memory of a few frames.

    All T-n+1 windows of a video of T frames are counted; the official rule, which leaves the last one out, is applied
    when they are summed up.
    """

    def __init__(self, video: int) -> None:
        self._video = video
        self._frames = 0
        self._raw, self._merged, self._truth, self._labels = (ConstantRun() for _ in range(4))
        self._rows: list[tuple[int, ...]] = []

    def add(self, *, raw: np.ndarray, truth: np.ndarray, labels: np.ndarray) -> None:
        """Takes the next frame.

        Args:
            raw: mask values as stored [H, W] uint8.
            truth: the same mask as train ids [H, W] uint8, 255 = ignore.
            labels: predicted train ids [H, W] uint8.
        """
        self._frames += 1
        self._raw.add(raw)
        self._merged.add(np.where(raw == 255, np.uint8(0), raw))
        self._truth.add(truth)
        self._labels.add(labels)
        for length in WINDOW_LENGTHS:
            if self._frames >= length:
                pixels = self._pixels(length, truth, labels)
                self._rows.append((length, self._video, self._frames - length, *pixels))

    def table(self) -> np.ndarray:
        """Returns one row a window so far [W, 10] int64, columns `WINDOW_COLUMNS`."""
        return np.array(self._rows, np.int64).reshape(-1, len(WINDOW_COLUMNS))

    def _pixels(self, length: int, truth: np.ndarray, labels: np.ndarray) -> list[int]:
        kept = self._labels.constant(length)
        strict = self._truth.constant(length) & (truth != IGNORE_INDEX)
        regions = []
        for region in (self._raw.constant(length), self._merged.constant(length), strict):
            regions += [region, region & kept]
        regions.append(regions[-1] & (labels == truth))
        return [int(np.count_nonzero(region)) for region in regions]
