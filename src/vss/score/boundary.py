"""Bands along the contours of a label map, for measures of how well boundaries are met."""

from __future__ import annotations

import cv2
import numpy as np

# Boundary IoU (Cheng et al., CVPR 2021, boundary_iou_api): the band is this share of the image's diagonal wide.
DILATION_RATIO = 0.02
TRIMAP_PIXELS = 5  # half the width of the trimap: pixels up to this far from a contour of the truth
BOUNDARY_COLUMNS = ("video", "class", "truth", "predicted", "both")


def band_pixels(height: int, width: int) -> int:
    """Returns how wide the band of boundary IoU is in pixels."""
    return max(1, round(DILATION_RATIO * float(np.hypot(height, width))))


def contour_band(labels: np.ndarray, pixels: int, *, frame: bool) -> np.ndarray:
    """Returns which pixels [H, W] bool have another label within a square of `pixels` to each side.

    For every class at once this is what eroding its mask `pixels` times by 3x3 takes away.

    Args:
        labels: [H, W] uint8.
        pixels: at least 1.
        frame: whether the edge of the image is a contour too, as in boundary IoU.
    """
    square = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    band = cv2.erode(labels, square) != cv2.dilate(labels, square)
    if frame:
        band[:pixels] = band[-pixels:] = True
        band[:, :pixels] = band[:, -pixels:] = True
    return band
