"""Small networks with the two calls the engine uses, for tests that need no trained model."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvSegmentor(nn.Module):
    """Two strided convolutions; logits at a quarter of the input, rounded up, as the real heads give."""

    def __init__(self, *, classes: int = 5, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
            self.head = nn.Conv2d(16, classes, 3, stride=2, padding=1)

    def class_logits(self, images: Tensor) -> Tensor:
        return self.head(self.stem(images).relu())

    def probabilities(self, resized: Tensor, protocol: str = "paper") -> Tensor:
        return resized.softmax(1)


class BrokenSegmentor(ConvSegmentor):
    """Returns nan wherever the image is black."""

    def class_logits(self, images: Tensor) -> Tensor:
        return torch.where(images.amax() < -1.5, torch.nan, super().class_logits(images))
