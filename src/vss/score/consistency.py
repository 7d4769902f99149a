"""Windows of a video: for how many frames in a row each pixel has kept its value, in the truth and the prediction.

A window of n frames counts the pixels whose truth is constant over it, and those of them whose prediction is too.
Three readings of one rule are counted side by side, because published numbers use all three (docs/metrics.md):
- official (VSPW_code VC_perclip.py): raw mask values are compared, so that "others" (0) and void (255) take part;
- merged (CFFM VC_perclip.py): raw values with 0 and 255 as one; stray values, such as 252, stay themselves;
- strict: only pixels with a class take part.
None but `strict_correct` asks whether the prediction is right: a constant wrong label is consistent.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from vss.score import bitmap

WINDOW_LENGTHS = (8, 16)
# Pixels of one window. `x`: truth constant; `x_kept`: prediction constant as well; `_correct`: and equal to the truth.
PIXEL_COLUMNS = ("official", "official_kept", "merged", "merged_kept", "strict", "strict_kept", "strict_correct")
WINDOW_COLUMNS = ("length", "video", "start", *PIXEL_COLUMNS)
# Pixels of one class that keep it over a window: in the truth, in the prediction, in both.
PERSISTENT_COLUMNS = ("length", "video", "start", "class", "truth", "predicted", "both")


class ConstantRun:
    """Which pixels kept their value over the last frames.

    A frame of another size starts again: no pixel of it continues one of the frame before.
    """

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        # Of the latest frame first: which pixels are those of the frame before. A bitmap is 51 kB at 480x853.
        self._equal: deque[np.ndarray] = deque(maxlen=max(WINDOW_LENGTHS) - 1)

    def add(self, values: np.ndarray, *, only: np.ndarray | None = None) -> None:
        """Takes the next frame's values [H, W]; runs go on only where the bitmap `only` is set."""
        if self._last is None or self._last.shape != values.shape:
            self._equal.clear()
        else:
            equal = bitmap.pack(values == self._last)
            self._equal.appendleft(equal if only is None else equal & only)
        self._last = values

    def constant(self, frames: int) -> np.ndarray:
        """Returns which pixels kept their value over the last `frames` frames, at least 2, a bitmap."""
        if len(self._equal) < frames - 1:
            return bitmap.pack(np.zeros(self._last.shape, bool))
        return np.bitwise_and.reduce([self._equal[at] for at in range(frames - 1)])
