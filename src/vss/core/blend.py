"""Frames blended with the colours of their labels."""

from __future__ import annotations

import cv2
import numpy as np

from vss.core.label_space import ignore_index

_OPACITY = 0.55


def blend_labels(image: np.ndarray, labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Returns the frame [H, W, 3] uint8 RGB blended with the colours of its labels; no class stays as it is."""
    blended = cv2.addWeighted(image, 1 - _OPACITY, palette[labels], _OPACITY, 0)
    without = labels == ignore_index(labels.dtype)
    blended[without] = image[without]
    return blended
