"""The loss of classes that a pixel surely does not have, whatever head predicts them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmseg.utils import SampleList
from torch import Tensor

_SMALLEST = 1e-30  # keeps log 0 away


def negatives_loss(probabilities: Tensor, data_samples: SampleList) -> Tensor:
    """Returns -log(1 - p), p being the probability of the classes that a pixel surely does not have.

    It is the sum over the pixels of which such classes are known, divided by all pixels, as the cross entropy of
    MMSegmentation's heads is: a pixel weighs as much in both.

    Args:
        probabilities: [N, C, H, W], summing to 1 over C.
        data_samples: N, with `negatives` [1, h, w] int64 (h <= H, w <= W; the rest is padding), 0 = nothing is known,
            n = row n - 1 of `surely_wrong` [S, C] bool.
    """
    height, width = probabilities.shape[-2:]
    total = probabilities.sum() * 0  # keeps every parameter in the graph
    for found, sample in zip(probabilities, data_samples, strict=True):
        which = sample.negatives.data[0]
        which = F.pad(which, (0, width - which.shape[1], 0, height - which.shape[0]))
        known = which > 0
        may_be = ~sample.surely_wrong[which[known] - 1]  # [P, C]
        left = torch.where(may_be, found[:, known].T, 0).sum(1)
        total = total - left.clamp_min(_SMALLEST).log().sum()
    return total / (len(probabilities) * height * width)
