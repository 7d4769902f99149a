"""Calibration: is a prediction right as often as it claims to be?

Expected calibration error and reliability of Guo et al., ICML 2017, of pixels: the confidence of a pixel is the
probability of its label, and pixels are grouped by it into bins of equal width, each without its lower edge.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vss.core.label_space import ignore_index

BINS = 15
CALIBRATION_COLUMNS = ("video", "bin", "pixels", "right", "confidence")
CONFIDENCE_STEPS = 65_535  # confidences are counted in whole steps, so that shards add; 15 bins of 4,369 steps


def calibration_counts(confidence: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Counts the labelled pixels of a frame by bin of confidence.

    Args:
        confidence: probability of each pixel's label [H, W] float, 0..1.
        labels, truth: train ids [H, W]; pixels whose truth is no class are left out.

    Returns:
        Pixels, those labelled right, and their confidence in steps of 1 / `CONFIDENCE_STEPS`, summed [BINS, 3] int64.
    """
    known = truth != ignore_index(truth.dtype)
    steps = np.rint(confidence[known] * CONFIDENCE_STEPS).astype(np.int64)
    bins = np.maximum(steps - 1, 0) // (CONFIDENCE_STEPS // BINS)
    right = (labels == truth)[known]
    # Sums of whole numbers below 2^53 are exact in float64.
    columns = [np.bincount(bins, weights, minlength=BINS) for weights in (None, right, steps)]
    return np.stack(columns, axis=1).astype(np.int64)


def expected_calibration_error(counts: np.ndarray) -> np.ndarray:
    """Returns the ECE [...] of counts [..., BINS, 3]; NaN without pixels.

    Bin by bin the distance between the share labelled right and the mean confidence, weighted by its share of pixels.
    """
    pixels, right, confidence = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    apart, total = np.abs(right - confidence / CONFIDENCE_STEPS).sum(axis=-1), pixels.sum(axis=-1)
    return np.divide(apart, total, out=np.full(np.shape(total), np.nan), where=total > 0)


def reliability(counts: np.ndarray) -> list[dict[str, Any]]:
    """Returns the bins [BINS, 3] that have pixels: `above`, `to`, `pixels`, mean `confidence` and `accuracy`."""
    return [
        {
            "above": number / BINS,
            "to": (number + 1) / BINS,
            "pixels": int(pixels),
            "confidence": float(confidence / CONFIDENCE_STEPS / pixels),
            "accuracy": float(right / pixels),
        }
        for number, (pixels, right, confidence) in enumerate(counts)
        if pixels
    ]
