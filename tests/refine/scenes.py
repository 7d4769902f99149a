"""Drawn frames with known truth, for the tests of the refine stage."""

from __future__ import annotations

import cv2
import numpy as np

GROUND, DISC, BAR = 18, 48, 60  # road, car, person
COLOURS = {GROUND: (90, 90, 95), DISC: (200, 40, 40), BAR: (40, 60, 210)}


def scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws one disc and one bar on a ground: RGB [H, W, 3] uint8 and train ids [H, W] uint8."""
    truth = np.full((height, width), GROUND, np.uint8)
    radius = int(min(height, width) * rng.uniform(0.18, 0.28))
    centre = int(width * rng.uniform(0.25, 0.4)), int(height * rng.uniform(0.35, 0.65))
    cv2.circle(truth, centre, radius, DISC, -1)
    left = int(width * rng.uniform(0.6, 0.75))
    cv2.rectangle(truth, (left, height // 5), (left + width // 7, height - height // 6), BAR, -1)
    image = np.zeros((height, width, 3), np.float32)
    for label, colour in COLOURS.items():
        image[truth == label] = colour
    image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    return image, truth


def coarse(truth: np.ndarray, factor: int = 8) -> np.ndarray:
    """Returns a label map as a network of low resolution would give it: blocks of `factor` pixels."""
    small = truth[factor // 2 :: factor, factor // 2 :: factor]
    return cv2.resize(small, truth.shape[::-1], interpolation=cv2.INTER_NEAREST)
