"""The operator of InternImage as a module: projections, predicted offsets and mask, deformable sampling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import vss_ops
from torch import Tensor, nn

from vss.models.layers import layer_norm, linear_in_float32


class DCNv3(nn.Module):
    """Deformable convolution v3 with its projections (arXiv 2211.05778, equation 2 and section 3.1).

    y(p0) = sum_g sum_k w_g m_gk x_g(p0 + s * (p_k + dp_gk)): every pixel p0 predicts, for each group g of channels and
    each kernel point k, an offset dp and a modulation m that is softmaxed over k; s is `offset_scale`.
    The softmax and the offsets are float32 under autocast.

    Args:
        channels: C, divisible by `group`.
        group: number of channel groups G.
        kernel_size: K = kernel_size ** 2 points; stride 1, "same" padding.
        dw_kernel_size: of the depthwise convolution that offsets and mask are predicted from.
        offset_scale: s above.
        center_feature_scale: mixes the projected input back in with a learnt sigmoid weight per group and pixel (H, G).
        remove_center: leaves the middle kernel point out (K - 1 points).

    Shape:
        input [N, H, W, C] float; output [N, H, W, C].
    """

    def __init__(
        self,
        *,
        channels: int,
        group: int,
        kernel_size: int = 3,
        dw_kernel_size: int = 3,
        offset_scale: float = 1.0,
        center_feature_scale: bool = False,
        remove_center: bool = False,
    ) -> None:
        super().__init__()
        if channels % group:
            raise ValueError(f"channels must be divisible by group, found {channels} and {group}")
        if remove_center and kernel_size % 2 == 0:
            raise ValueError(f"remove_center needs an odd kernel_size, found {kernel_size}")
        self.channels, self.group, self.kernel_size = channels, group, kernel_size
        self.offset_scale, self.remove_center = offset_scale, remove_center
        self.center_feature_scale = center_feature_scale
        points = kernel_size * kernel_size - int(remove_center)
        self.dw_conv = nn.Sequential(
            nn.Conv2d(channels, channels, dw_kernel_size, padding=dw_kernel_size // 2, groups=channels),
            layer_norm(channels, channels_first=True),
            nn.GELU(),
        )
        self.offset = nn.Linear(channels, group * points * 2)
        self.mask = nn.Linear(channels, group * points)
        self.input_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        if center_feature_scale:
            self.center_feature_scale_proj_weight = nn.Parameter(torch.zeros(group, channels))
            self.center_feature_scale_proj_bias = nn.Parameter(torch.zeros(group))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts as a plain average over the undeformed kernel: zero offsets, equal mask."""
        for layer in (self.offset, self.mask):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        C = x.shape[-1]
        value = self.input_proj(x)  # [N, H, W, C]
        context = self.dw_conv(x.permute(0, 3, 1, 2))  # [N, H, W, C]
        offset = linear_in_float32(self.offset, context)  # [N, H, W, G*K*2]
        mask = linear_in_float32(self.mask, context)  # [N, H, W, G*K] logits; the operator softmaxes them over K
        y = vss_ops.dcnv3(
            value,
            offset,
            mask,
            kernel_size=self.kernel_size,
            stride=1,
            padding=self.kernel_size // 2,
            dilation=1,
            group=self.group,
            group_channels=C // self.group,
            offset_scale=self.offset_scale,
            remove_center=self.remove_center,
            softmax=True,
        )  # [N, H, W, C]
        if self.center_feature_scale:
            y = self._mix_center(y, value, context)
        return self.output_proj(y)

    def _mix_center(self, y: Tensor, value: Tensor, context: Tensor) -> Tensor:
        scale = F.linear(context, self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias).sigmoid()
        scale = scale.repeat_interleave(self.channels // self.group, dim=-1)  # [N, H, W, G] -> [N, H, W, C]
        return y * (1 - scale) + value * scale
