"""Training samples of a refinement network: crops of true masks, perturbed."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from vss.core.errors import UserError
from vss.core.images import read_image
from vss.core.index import Card
from vss.refine.cascadepsp import image_tensor, mask_tensor, to_working_size
from vss.refine.parts import Part, split_components
from vss.refine.perturb import perturb

_FRAMES_IN_MEMORY = 512
_BRIGHTNESS = 0.2  # largest relative change of an image's values
_TRIES = 100  # frames drawn until one has a part


@dataclass(frozen=True)
class MaskBatch:
    """Samples for a refinement network.

    Attributes:
        image: [N, 3, crop, crop], normalised RGB, 0 where padded.
        given: [N, 1, crop, crop], the perturbed mask, -1 or +1.
        truth: [N, 1, crop, crop], the true mask in 0..1.
    """

    image: Tensor
    given: Tensor
    truth: Tensor


class MaskSamples:
    """Draws samples from the masks of one split; every sample is a function of its key alone.

    As at inference a part is cropped to its box and reduced to a longer side of L where it is larger, but not enlarged;
    of that a window of `crop` pixels around a point of the mask's boundary is taken (upstream: anywhere).

    Args:
        rows: index rows that have masks.
        card: of the dataset.
        crop: pixels of a sample's sides.
        L: pixels of the longer side of a part's crop.
        min_area, dilate, margin: see `parts.split_components`.
        iou_target: range of the perturbed masks' IoU with the truth.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        card: Card,
        *,
        crop: int,
        L: int,
        min_area: int,
        dilate: int,
        margin: float,
        iou_target: tuple[float, float],
    ) -> None:
        self._rows, self._card = list(rows.itertuples()), card
        self._crop, self._L, self._iou_target = crop, L, iou_target
        self._split = functools.partial(split_components, min_area=min_area, dilate=dilate, margin=margin)
        # Upstream's kernels are for crops of 224 pixels; for others in proportion.
        self._max_kernel = max(4, round(10 * crop / 224))
        self._frame = functools.lru_cache(maxsize=_FRAMES_IN_MEMORY)(self._read_frame)

    def batch(self, *key: int, size: int) -> MaskBatch:
        """Returns `size` samples, drawn by the key (numbers such as seed and iteration)."""
        samples = [self._sample(np.random.default_rng([*key, number])) for number in range(size)]
        return MaskBatch(*(torch.cat(tensors) for tensors in zip(*samples, strict=True)))

    def _sample(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        frame, part = self._draw_part(rng)
        image, mask = to_working_size(
            image_tensor(part.crop(frame)), mask_tensor(part.crop(part.mask)), self._L, min_size=0
        )
        truth = (mask + 1) / 2
        window = self._window(truth[0, 0].numpy() > 0.5, rng)
        image, truth = image[window], truth[window]
        given = perturb(
            truth[0, 0].numpy() > 0.5, rng, iou_target=rng.uniform(*self._iou_target), max_kernel=self._max_kernel
        )
        brightness = float(rng.uniform(1 - _BRIGHTNESS, 1 + _BRIGHTNESS))
        tensors = self._padded(image * brightness, 0), self._padded(mask_tensor(given), -1), self._padded(truth, 0)
        return tuple(tensor.flip(-1) for tensor in tensors) if rng.random() < 0.5 else tensors

    def _window(self, mask: np.ndarray, rng: np.random.Generator) -> tuple:
        """Returns the index [..., y, x] of a window of at most `crop` pixels around a boundary pixel."""
        inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
        boundary = np.argwhere(mask & (inner == 0))
        middle = boundary[rng.integers(len(boundary))] if len(boundary) else np.array(mask.shape) // 2
        y, x = (
            max(0, min(int(at) - self._crop // 2, side - self._crop))
            for at, side in zip(middle, mask.shape, strict=True)
        )
        return np.s_[:, :, y : y + self._crop, x : x + self._crop]

    def _draw_part(self, rng: np.random.Generator) -> tuple[np.ndarray, Part]:
        for _ in range(_TRIES):
            image, parts = self._frame(int(rng.integers(len(self._rows))))
            if parts:
                return image, parts[rng.integers(len(parts))]
        raise UserError("refine training: no mask has a part larger than min_area; lower it")

    def _read_frame(self, number: int) -> tuple[np.ndarray, list[Part]]:
        row = self._rows[number]
        labels = self._card.read_mask(row.mask)
        return read_image(os.path.join(self._card.root, row.image)), self._split(labels)

    def _padded(self, tensor: Tensor, value: float) -> Tensor:
        height, width = tensor.shape[-2:]
        return F.pad(tensor, (0, self._crop - width, 0, self._crop - height), value=value)
