"""Bands along the contours of a label map, for measures of how well boundaries are met."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vss.score import bitmap

# Boundary IoU (Cheng et al., CVPR 2021, boundary_iou_api): the band is this share of the image's diagonal wide.
DILATION_RATIO = 0.02
TRIMAP_PIXELS = 5  # half the width of the trimap: pixels up to this far from a contour of the truth
BOUNDARY_COLUMNS = ("video", "class", "truth", "predicted", "both")


def band_pixels(height: int, width: int) -> int:
    """Returns how wide the band of boundary IoU is in pixels."""
    return max(1, round(DILATION_RATIO * float(np.hypot(height, width))))


class Contours:
    """Where a label map [H, W] uint8 changes.

    Attributes:
        right: which pixels differ from the one to their right, a bitmap.
    """

    def __init__(self, labels: np.ndarray) -> None:
        self._shape = labels.shape
        self.right, below = bitmap.changes(labels)
        # Of the four pixels that meet at the lower right corner of a pixel, some differ.
        self._corners = self.right | below
        self._corners[:-1] |= self.right[1:]

    def band(self, pixels: int) -> np.ndarray:
        """Returns which pixels have another label within a square of `pixels` >= 1 to each side, a bitmap.

        For every class at once this is what eroding its mask `pixels` times by 3x3 takes away. Bits beyond the width of
        the image may be set.
        """
        # A square of 2n+1 pixels to the side has one label where the 2n x 2n corners between its pixels are none.
        return bitmap.widened(self._corners, pixels)


@lru_cache(maxsize=4)
def frame_band(height: int, width: int, pixels: int) -> np.ndarray:
    """Returns which pixels lie at most `pixels` from the edge of the image, a bitmap."""
    band = np.ones((height, width), bool)
    band[pixels:-pixels, pixels:-pixels] = False
    return bitmap.pack(band)
