"""Windows of a video: for how many frames in a row each pixel has kept its value, in the truth and the prediction.

A window of n frames counts the pixels whose truth is constant over it, and those of them whose prediction is too.
Three readings of one rule are counted side by side, because published numbers use all three (docs/metrics.md):
- official (VSPW_code VC_perclip.py): raw mask values are compared, so that "others" (0) and void (255) take part;
- merged (CFFM VC_perclip.py): raw values with 0 and 255 as one; stray values, such as 252, stay themselves;
- strict: only pixels with a class take part.
None but `strict_correct` asks whether the prediction is right: a constant wrong label is consistent.
"""

from __future__ import annotations

import numpy as np

WINDOW_LENGTHS = (8, 16)
_CAP = max(WINDOW_LENGTHS)
# Pixels of one window. `x`: truth constant; `x_kept`: prediction constant as well; `_correct`: and equal to the truth.
PIXEL_COLUMNS = ("official", "official_kept", "merged", "merged_kept", "strict", "strict_kept", "strict_correct")
WINDOW_COLUMNS = ("length", "video", "start", *PIXEL_COLUMNS)
# Pixels of one class that keep it over a window: in the truth, in the prediction, in both.
PERSISTENT_COLUMNS = ("length", "video", "start", "class", "truth", "predicted", "both")


class ConstantRun:
    """How many frames in a row, up to the last one added, each pixel has kept its value.

    One array of this size stands for all windows that end at the last frame, of any of `WINDOW_LENGTHS`. A frame of
    another size starts again from 1: no pixel of it continues one of the frame before.
    """

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self.length: np.ndarray | None = None  # [H, W] uint8, 0..max(WINDOW_LENGTHS)

    def add(self, values: np.ndarray, *, but_not: np.ndarray | None = None) -> None:
        """Takes the next frame's values [H, W] uint8; where `but_not` [H, W] bool holds, the run is broken off: 0."""
        if self._last is None or self._last.shape != values.shape:
            self.length = np.ones(values.shape, np.uint8)
        else:
            np.minimum(self.length, _CAP - 1, out=self.length)
            np.multiply(self.length, (values == self._last).view(np.uint8), out=self.length)
            self.length += 1
        if but_not is not None:
            self.length *= (~but_not).view(np.uint8)
        self._last = values

    def constant(self, frames: int) -> np.ndarray:
        """Returns which pixels [H, W] bool kept their value over the last `frames` frames."""
        return self.length >= frames

    def reached(self) -> np.ndarray:
        """Returns how many of `WINDOW_LENGTHS` each pixel's run fills [H, W] uint8."""
        return sum((self.length >= frames).view(np.uint8) for frames in WINDOW_LENGTHS)
