"""CascadePSP's training loss (paper section 3.3; upstream util/hyper_para.py and metrics_compute.py)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

# Output -> (cross entropy, L1 + L2). The coarse stride learns the object, the fine ones its boundary.
LOSS_WEIGHTS = {
    "224": (0.0, 1.0),
    "28": (1.0, 0.0),
    "56": (0.5, 0.25),
    "28_2": (1.0, 0.0),
    "28_3": (1.0, 0.0),
    "56_2": (0.5, 0.25),
}
GRADIENT_WEIGHT = 5.0


def refinement_loss(outputs: Mapping[str, Tensor], truth: Tensor) -> Tensor:
    """Returns the sum over the cascade's outputs of weighted cross entropy, L1 and L2, and the gradient loss.

    Args:
        outputs: `pred_*` (probabilities) and `out_*` (logits) [N, 1, H, W] of a refinement network.
        truth: [N, 1, H, W] in 0..1.
    """
    total = GRADIENT_WEIGHT * F.l1_loss(gradient_magnitude(outputs["pred_224"]), gradient_magnitude(truth))
    binary = (truth > 0.5).float()
    for name, (entropy, distance) in LOSS_WEIGHTS.items():
        if entropy:
            total = total + entropy * F.binary_cross_entropy_with_logits(outputs[f"out_{name}"], binary)
        if distance:
            difference = outputs[f"pred_{name}"] - truth
            total = total + distance * (difference.abs().mean() + difference.square().mean())
    return total


def gradient_magnitude(x: Tensor) -> Tensor:
    """Returns the Sobel magnitude [N, 1, H, W] of x after a 3x3 mean, with 1e-4 under the root (models/sobel_op.py)."""
    horizontal = x.new_tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]) / 4
    kernels = torch.stack([horizontal, horizontal.T])[:, None]
    slopes = F.conv2d(F.avg_pool2d(x, 3, stride=1, padding=1), kernels, padding=1)
    return (slopes.square().sum(dim=1, keepdim=True) + 1e-4).sqrt()
