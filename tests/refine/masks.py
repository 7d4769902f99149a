"""Boolean masks as proposals, and back, for the tests of voting and of the stored file."""

from __future__ import annotations

import numpy as np

from vss.refine.proposals import Proposals, RunLengths


def run_lengths(masks: np.ndarray) -> RunLengths:
    """Encodes boolean masks [M, H, W]."""
    return RunLengths.from_coco(masks.shape[1:], [_runs_of(mask) for mask in masks])


def _runs_of(mask: np.ndarray) -> np.ndarray:
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(edges, prepend=0, append=len(flat))
    return np.concatenate([[0], runs]) if flat[0] else runs


def drawn_masks(proposals: Proposals) -> np.ndarray:
    """Draws every proposal: boolean [M, H, W]."""
    pixels, counts = proposals.pixels()
    masks = np.zeros((len(counts), int(np.prod(proposals.size))), bool)
    masks[np.repeat(np.arange(len(counts)), counts), pixels] = True
    return masks.reshape(len(counts), *proposals.size)
