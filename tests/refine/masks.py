"""Boolean masks as proposals, and back, for the tests of voting and of the stored file."""

from __future__ import annotations

import numpy as np

from vss.refine.proposals import Proposals, RunLengths, runs_of


def run_lengths(masks: np.ndarray, ids: np.ndarray | None = None) -> RunLengths:
    """Encodes boolean masks [M, H, W]."""
    return RunLengths.from_coco(masks.shape[1:], [runs_of(mask.ravel(order="F")) for mask in masks], ids)


def drawn_masks(proposals: Proposals) -> np.ndarray:
    """Draws every proposal: boolean [M, H, W]."""
    pixels, counts = proposals.pixels()
    masks = np.zeros((len(counts), int(np.prod(proposals.size))), bool)
    masks[np.repeat(np.arange(len(counts)), counts), pixels] = True
    return masks.reshape(len(counts), *proposals.size)
