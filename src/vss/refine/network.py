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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from segmentation_refinement.models.psp.pspnet import PSPModule, PSPUpsample, RefinementModule
from torch import Tensor, nn
from torch.nn import functional as F

from vss.core.device import resolve_device
from vss.core.errors import UserError
from vss.refine.settings import MODES, Procedure, one_of
from vss.weights.weights_file import read_weights


class PyramidPooling(PSPModule):
    """The package's pyramid pooling with the last convolution before the enlargement, not after it.

    A 1x1 convolution and bilinear interpolation commute, so four fifths of the convolution's inputs are a few cells.
    """

    def forward(self, feats: Tensor) -> Tensor:
        """Maps features [N, C, h, w] to [N, out_features, h, w]."""
        *weights, own = self.bottleneck.weight.split(feats.shape[1], dim=1)
        pooled = F.conv2d(feats, own, self.bottleneck.bias)
        for stage, weight in zip(self.stages, weights, strict=True):
            small = F.conv2d(stage(feats), weight)
            pooled = pooled + F.interpolate(small, size=feats.shape[2:], mode="bilinear", align_corners=False)
        return self.relu(pooled)


class CascadePspModule(RefinementModule):
    """CascadePSP's network: the package's, with the same parameters and less arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.psp = PyramidPooling(2048, 1024, (1, 2, 3, 6))


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


class ColourEvidence(nn.Module):
    """Which side of the mask a pixel's colour belongs to.

    For windows of several sizes: the share of foreground, and how much nearer the pixel's colour is to the mean colour
    of the window's foreground than to that of its background. A large network learns this by itself; given to a small
    one it saves most of the training.

    Args:
        radii: half sizes of the windows in pixels.
        width: channels of the head.
    """

    def __init__(self, *, radii: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.radii = radii
        self.head = nn.Sequential(
            nn.Conv2d(1 + 3 * len(radii), width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 1, 1),
        )
        nn.init.zeros_(self.head[-1].weight)
        nn.init.zeros_(self.head[-1].bias)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Maps image [N, 3, H, W] and mask [N, 1, H, W] in -1..1 to logits [N, 1, H, W], at first all 0."""
        inside = (mask + 1) / 2
        features = [mask]
        stacked = torch.cat([inside, 1 - inside, image * inside, image * (1 - inside)], dim=1)
        for radius in self.radii:
            share, rest, front, back = window_mean(stacked, radius).split([1, 1, 3, 3], dim=1)
            front, back = front / (share + 1e-2), back / (rest + 1e-2)
            to_front = (image - front).square().mean(dim=1, keepdim=True)
            to_back = (image - back).square().mean(dim=1, keepdim=True)
            contrast = (front - back).square().mean(dim=1, keepdim=True).clamp(max=4)
            features += [2 * share - 1, (to_back - to_front) / (to_back + to_front + 0.05), contrast]
        return self.head(torch.cat(features, dim=1))


def window_mean(x: Tensor, radius: int) -> Tensor:
    """Returns the mean of x [N, C, H, W] over windows of side 2 * radius + 1, with zeros outside."""
    side = 2 * radius + 1
    rows = F.avg_pool2d(x, (side, 1), stride=1, padding=(radius, 0))
    return F.avg_pool2d(rows, (1, side), stride=1, padding=(0, radius))


class MiniRefinementModule(RefinementModule):
    """CascadePSP with an encoder of three small stages: the package's cascade, pyramid pooling and decoder blocks.

    Unlike CascadePSP it adds colour evidence and the given mask to its last logits, and starts from exactly that mask:
    a short training then goes into what is to be changed, and an untrained network does no harm.

    Args:
        widths: channels at strides 1 (decoder), 2, 4, 8.
        evidence: of the colour evidence.
    """

    def __init__(self, *, widths: tuple[int, int, int, int], evidence: ColourEvidence) -> None:
        nn.Module.__init__(self)  # the parent's constructor builds the full-size parts; only its forward is used
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
        nn.init.zeros_(self.final_21.weight)
        nn.init.zeros_(self.final_21.bias)
        self.evidence = evidence
        self.trust = nn.Parameter(torch.tensor(3.0))  # logit of the given mask

    def forward(
        self, x: Tensor, seg: Tensor, inter_s8: Tensor | None = None, inter_s4: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Refines `seg` [N, 1, H, W] on the image x [N, 3, H, W]; see the contract in the module's docstring."""
        outputs = super().forward(x, seg, inter_s8, inter_s4)
        outputs["out_224"] = outputs["out_224"] + self.evidence(x, seg) + self.trust * seg
        outputs["pred_224"] = torch.sigmoid(outputs["out_224"])
        return outputs


def _mini() -> MiniRefinementModule:
    return MiniRefinementModule(widths=(8, 8, 16, 32), evidence=ColourEvidence(radii=(3, 7, 15), width=12))


@dataclass(frozen=True)
class NetworkRow:
    """A refinement network.

    Attributes:
        build: makes it with random weights.
        mode: row of `vss.refine.settings.MODES` that suits it.
        procedure: that mode as it was trained for.
    """

    build: Callable[[], nn.Module]
    mode: str
    procedure: Procedure


NETWORKS = {
    "cascadepsp": NetworkRow(CascadePspModule, "scene_parsing", MODES["scene_parsing"]),  # 67.7 M parameters
    # 0.07 M parameters; trained on crops at their own scale, see vss.refine.samples
    "cascadepsp-mini": NetworkRow(_mini, "single_pass", replace(MODES["single_pass"], L=192, min_size=0)),
}


def build_network(name: str) -> nn.Module:
    """Builds the network of one row of `NETWORKS` with random weights.

    Raises:
        UserError: no such row.
    """
    return NETWORKS[one_of(name, NETWORKS, where="refine network")].build()


def load_network(weights: str | os.PathLike | None, *, device: str) -> tuple[str, nn.Module]:
    """Reads weights, finds the row of `NETWORKS` they belong to, and loads that network in eval mode on `device`.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N".
        weights: CascadePSP's released file (every name prefixed with `module.`) or one that `train_refiner` wrote.

    Returns:
        The row's name and the network.

    Raises:
        UserError: weights missing, unreadable or of no known network.
    """
    if weights is None:
        raise UserError("refine cascadepsp: no weights given; it needs CascadePSP's, or those of `vss train-refiner`")
    file = read_weights(weights)
    name = _row_of(file.tensors)
    if name is None:
        raise UserError(f"{weights}: not weights of any of {', '.join(NETWORKS)}")
    network = build_network(name)
    file.fill(network)
    network = network.eval().to(resolve_device(device))
    if name == "cascadepsp" and next(network.parameters()).device.type == "cpu":
        # A CPU's convolutions are faster with the channels of a pixel next to each other.
        for parameter in network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return name, network


def _row_of(state: Mapping[str, Tensor]) -> str | None:
    """Returns the row whose network has most of the names in `state`, None if none has half of them."""
    shares = {}
    for name in NETWORKS:
        with torch.device("meta"):
            names = build_network(name).state_dict().keys()
        shares[name] = len(names & state.keys()) / len(names | state.keys())
    best = max(shares, key=shares.__getitem__)
    return best if shares[best] > 0.5 else None
