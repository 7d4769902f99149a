"""Refinement networks: CascadePSP's own, and a small one of the same family.

All share one forward contract, that of the package's `RefinementModule`:
`network(image, mask, inter_s8=None, inter_s4=None) -> dict`, with image [N, 3, H, W] ImageNet-normalised RGB, mask
[N, 1, H, W] in -1..1, H and W multiples of 8. The mask is refined in three passes over the same weights: at stride 8,
at stride 4, at full size, each pass seeing the results of the ones before; given intermediate masks replace the first
passes. `pred_224` is the refined probability [N, 1, H, W]; `pred_28*`, `pred_56*` are those of strides 8 and 4, `out_*`
the logits.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from segmentation_refinement.models.psp.pspnet import PSPModule, PSPUpsample, RefinementModule
from torch import Tensor, nn
from torch.nn import functional as F

from vss.refine.settings import one_of
from vss.refine.weights import load_into, read_weights


class MiniEncoder(nn.Module):
    """Three residual stages, strides 2, 4, 8, in place of the dilated ResNet-50.

    Args:
        widths: channels at strides 2, 4, 8.
    """

    def __init__(self, *, widths: tuple[int, int, int]) -> None:
        super().__init__()
        half, quarter, eighth = widths
        # Six channels: the image and three masks (given, stride 8, stride 4).
        self.stem = nn.Conv2d(6, half, 5, stride=2, padding=2, bias=False)
        self.norm = nn.BatchNorm2d(half)
        self.quarter = ResidualBlock(half, quarter, stride=2)
        self.eighth = nn.Sequential(
            ResidualBlock(quarter, eighth, stride=2), ResidualBlock(eighth, eighth, stride=1, dilation=2)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps [N, 6, H, W] to features at strides 8, 2, 4 (the order of the package's ResNet)."""
        half = self.stem(x)
        quarter = self.quarter(F.relu(self.norm(half)))
        return self.eighth(quarter), half, quarter


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class MiniRefinementModule(RefinementModule):
    """CascadePSP with an encoder of three small stages: the package's cascade, pyramid pooling and decoder blocks.

    Args:
        widths: channels at strides 1 (decoder), 2, 4, 8.
    """

    def __init__(self, *, widths: tuple[int, int, int, int]) -> None:
        nn.Module.__init__(self)  # the parent's own constructor builds the full-size parts; its forward is kept
        full, half, quarter, eighth = widths
        self.feats = MiniEncoder(widths=(half, quarter, eighth))
        self.psp = PSPModule(eighth, eighth, (1, 2, 3, 6))
        self.up_1 = PSPUpsample(eighth, eighth + quarter, quarter)
        self.up_2 = PSPUpsample(quarter, quarter + half, half)
        self.up_3 = PSPUpsample(half, half + 3, full)
        self.final_28 = nn.Sequential(nn.Conv2d(eighth, full, 1), nn.ReLU(inplace=True), nn.Conv2d(full, 1, 1))
        self.final_56 = nn.Sequential(nn.Conv2d(quarter, full, 1), nn.ReLU(inplace=True), nn.Conv2d(full, 1, 1))
        self.final_11 = nn.Conv2d(full + 3, full, 1)
        self.final_21 = nn.Conv2d(full, 1, 1)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "cascadepsp": RefinementModule,  # 67.7 M parameters
    "cascadepsp-mini": lambda: MiniRefinementModule(widths=(8, 16, 32, 64)),  # 0.2 M
}


def build_network(name: str) -> nn.Module:
    """Builds the network of one row of `NETWORKS` with random weights.

    Raises:
        UserError: no such row.
    """
    return NETWORKS[one_of(name, NETWORKS, where="refine network")]()


def load_network(name: str, weights: str | os.PathLike | None, *, device: str) -> nn.Module:
    """Builds a network, loads its weights and puts it in eval mode on `device`.

    Args:
        name: row of `NETWORKS`.
        weights: CascadePSP's released file (every name prefixed with `module.`) or one of ours.

    Raises:
        UserError: no such row; weights missing, unreadable or of another network.
    """
    network = build_network(name)
    load_into(network, read_weights(weights, of=name), path=str(weights), of=name)
    return network.eval().to(torch.device(device))
