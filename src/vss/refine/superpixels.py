"""Weight-free proposals: superpixels of scikit-image, computed in 8-bit RGB at the frame's own size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from skimage.segmentation import felzenszwalb, slic

from vss.refine.proposals import Partitions
from vss.refine.settings import FelzenszwalbSettings, SlicSettings


@dataclass(frozen=True)
class Superpixels:
    """Partitions a frame once or, with several scales, more than once.

    Attributes:
        partition: maps an RGB frame [H, W, 3] uint8 and one scale to a label map [H, W].
        scales: one value per partition.
    """

    partition: Callable[[np.ndarray, float], np.ndarray]
    scales: tuple[float, ...]
    device = "cpu"

    def propose(self, image: np.ndarray) -> Partitions:
        """Returns one partition of `image` [H, W, 3] uint8 RGB per scale."""
        return Partitions.from_label_maps([self.partition(image, scale) for scale in self.scales])


def _felzenszwalb(scales: tuple[float, ...], sigma: float, min_size: int) -> Superpixels:
    def partition(image: np.ndarray, scale: float) -> np.ndarray:
        return felzenszwalb(image, scale=scale, sigma=sigma, min_size=min_size, channel_axis=-1)

    return Superpixels(partition, scales)


def _slic(segments: tuple[int, ...], compactness: float, sigma: float) -> Superpixels:
    def partition(image: np.ndarray, count: float) -> np.ndarray:
        return slic(image, n_segments=int(count), compactness=compactness, sigma=sigma, start_label=0, channel_axis=-1)

    return Superpixels(partition, segments)


def build_superpixels(settings: FelzenszwalbSettings | SlicSettings) -> Superpixels:
    """Builds the proposer that the settings describe.

    Felzenszwalb follows edges of any length and leaves large even areas whole, as masks of objects do; SLIC's segments
    are compact and of equal size. The schema's defaults are the best of a small search on drawn frames (192x108) and on
    real ones (480x360): larger segments swallow small things.
    """
    if isinstance(settings, SlicSettings):
        return _slic(settings.segments, settings.compactness, settings.sigma)
    return _felzenszwalb(settings.scales, settings.sigma, settings.min_size)
