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


class Conjunctions:
    """Of the latest bitmaps: which pixels are set in all of them.

    A bitmap is 51 kB at 480x853. What 2, 4 and 8 bitmaps in a row have in common is kept as well, so that a conjunction
    of any number joins two.
    """

    def __init__(self) -> None:
        longest = max(WINDOW_LENGTHS)
        # By number of bitmaps in a row, a power of two: their conjunctions, of those that end latest first.
        self._of: dict[int, deque[np.ndarray]] = {
            1 << power: deque(maxlen=(1 << power) + 1) for power in range(longest.bit_length())
        }

    def add(self, bitmap: np.ndarray) -> None:
        """Takes the next bitmap; one of another size starts again."""
        if self._of[1] and self._of[1][0].shape != bitmap.shape:
            self.clear()
        self._of[1].appendleft(bitmap)
        for number in self._of:
            shorter = self._of.get(number // 2, ())
            if len(shorter) > number // 2:
                self._of[number].appendleft(shorter[0] & shorter[number // 2])

    def clear(self) -> None:
        """Forgets all bitmaps."""
        for conjunctions in self._of.values():
            conjunctions.clear()

    def of(self, number: int) -> np.ndarray | None:
        """Returns which pixels are set in each of the latest bitmaps, so many of them; None where there are fewer."""
        power = 1 << number.bit_length() - 1
        found = self._of[power]
        return None if len(found) <= number - power else found[0] & found[number - power]


class ConstantRun:
    """Which pixels kept their value over the last frames.

    A frame of another size starts again: no pixel of it continues one of the frame before.
    """

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._same = Conjunctions()  # which pixels are those of the frame before

    def add(self, values: np.ndarray) -> None:
        """Takes the next frame's values [H, W]."""
        if self._last is None or self._last.shape != values.shape:
            self._same.clear()
        else:
            self._same.add(bitmap.equal(values, self._last))
        self._last = values

    def constant(self, frames: int) -> np.ndarray:
        """Returns which pixels kept their value over the last `frames` frames, at least 2, a bitmap."""
        found = self._same.of(frames - 1)
        return bitmap.pack(np.zeros(self._last.shape, bool)) if found is None else found
