"""Weight-free proposals: superpixels of scikit-image, computed in 8-bit RGB at the frame's own size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from skimage.segmentation import felzenszwalb, slic

from vss.core.errors import UserError
from vss.refine.proposals import Partitions
from vss.refine.settings import one_of, with_defaults


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


def _felzenszwalb(scales: list[float], sigma: float, min_size: int) -> Superpixels:
    def partition(image: np.ndarray, scale: float) -> np.ndarray:
        return felzenszwalb(image, scale=scale, sigma=sigma, min_size=min_size, channel_axis=-1)

    return Superpixels(partition, tuple(scales))


def _slic(segments: list[int], compactness: float, sigma: float) -> Superpixels:
    def partition(image: np.ndarray, count: float) -> np.ndarray:
        return slic(image, n_segments=int(count), compactness=compactness, sigma=sigma, start_label=0, channel_axis=-1)

    return Superpixels(partition, tuple(segments))


# One row per method: constructor and default parameters. Felzenszwalb follows edges of any length and leaves large even
# areas whole, as masks of objects do; SLIC's segments are compact and of equal size. The defaults are the best of a
# small search on drawn frames (192x108) and on real ones (480x360): larger segments swallow small things.
_METHODS: dict[str, tuple[Callable[..., Superpixels], dict[str, Any]]] = {
    "felzenszwalb": (_felzenszwalb, {"scales": [20.0], "sigma": 0.5, "min_size": 10}),
    "slic": (_slic, {"segments": [300], "compactness": 10.0, "sigma": 1.0}),
}


def build_superpixels(method: str | None, parameters: dict[str, Any]) -> Superpixels:
    """Builds the proposer of one of `felzenszwalb` and `slic`.

    Args:
        parameters: felzenszwalb: scales (list; larger = larger segments), sigma (pixels), min_size (pixels).
            slic: segments (list of numbers of segments), compactness, sigma (pixels).

    Raises:
        UserError: unknown method or parameter, or an empty list of scales.
    """
    construct, defaults = _METHODS[one_of(method, ("sam", *_METHODS), where="refine proposals method")]
    resolved = with_defaults(parameters, defaults, where=f"refine proposals {method}")
    scales = "scales" if "scales" in resolved else "segments"
    if not resolved[scales] or min(resolved[scales]) <= 0:
        raise UserError(
            f"refine proposals {method}: {scales} = {resolved[scales]}, expected a list of positive numbers"
        )
    return construct(**resolved)
