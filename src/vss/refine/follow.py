"""Which pixels of a frame are found again in another, by optical flow there and back."""

from __future__ import annotations

import cv2
import numpy as np

_RETURNS = 1.5  # pixels: flow there and back that ends farther away from where it began has lost its pixel


def found_again(forward: np.ndarray, backward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the flat indices of the pixels that are found again, and of the pixels that they are in the other frame.

    Args:
        forward, backward: flow to the other frame and from it, in pixels [H, W, 2] float32, x first.
    """
    height, width = forward.shape[:2]
    x = forward[..., 0] + np.arange(width, dtype=np.float32)
    y = forward[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    returned = cv2.remap(backward, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=(1e4, 1e4))
    found = np.flatnonzero(np.square(forward + returned).sum(axis=2) <= _RETURNS**2)
    return found, np.rint(y).astype(np.intp).take(found) * width + np.rint(x).astype(np.intp).take(found)
