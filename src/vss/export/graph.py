"""The graph that is exported: one view of one frame, from pixels to class probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram

from vss.core.errors import UserError
from vss.core.log import one_line
from vss.infer.frame_size import Size


class FrameToProbabilities(nn.Module):
    """Everything between a frame and its class probabilities that the engine does for one unflipped view.

    Args:
        segmentor: with `class_logits` and `probabilities`, in eval mode.
        mean, std: three numbers each, RGB on 0..255.
        padded: (height, width) that the network sees after zero padding right and below.
        protocol: passed on to `segmentor.probabilities`.

    Shape:
        [1, 3, H, W] float32, RGB on 0..255, H and W at most `padded` -> [1, C, H, W] float32 that sum to 1 over C.
    """

    def __init__(
        self, segmentor: nn.Module, *, mean: Sequence[float], std: Sequence[float], padded: Size, protocol: str
    ) -> None:
        super().__init__()
        self.segmentor: Any = segmentor  # torch types the attributes of a module as `Tensor | Module`
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.padded, self.protocol = padded, protocol
        self.register_buffer("pixel_mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        normalised = (images - self.pixel_mean) / self.pixel_std
        inputs = F.pad(normalised, (0, self.padded[1] - width, 0, self.padded[0] - height))
        logits = self.segmentor.class_logits(inputs).float()
        resized = F.interpolate(logits, size=self.padded, mode="bilinear", align_corners=False)
        return self.segmentor.probabilities(resized[:, :, :height, :width], self.protocol)


def trace(graph: nn.Module, size: Size, *, name: str) -> ExportedProgram:
    """Returns the program of a graph for frames of one size; it holds plain operators of torch only.

    Args:
        graph: see `FrameToProbabilities`.
        size: (height, width) of the frames.
        name: what to call the model in an error.

    Raises:
        UserError: torch.export cannot record the model.
    """
    images = torch.zeros(1, 3, *size)
    with torch.no_grad():
        graph(images)  # checks the operators before recording, so that the check is no part of the record
        try:
            return torch.export.export(graph, (images,), strict=False)
        except Exception as error:  # torch.export raises many types
            raise UserError(f"{name}: torch.export cannot record this model ({one_line(str(error))[:300]})") from error
