"""The attention layers of Mask2Former and their feed-forward network, with mmdet 3's parameter names."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import vss_ops
from torch import Tensor, nn

from vss.models.layers import linear_in_float32


def sine_position(height: int, width: int, *, channels: int, device: torch.device) -> Tensor:
    """Returns sinusoidal positions [height * width, channels] float32, rows first.

    The first half of the channels encodes y, the second x: coordinates 1..size are scaled to (0, 2 pi] and go through
    sine and cosine (alternating) at wavelengths of 1 to 10000 (DETR, arXiv 2005.12872, appendix A.4; normalised form
    of Deformable DETR).
    """
    half, epsilon = channels // 2, 1e-6
    exponent = 2 * torch.arange(half, device=device).div(2, rounding_mode="floor") / half
    wavelength = 10000.0**exponent  # [C/2]

    def encode(size: int) -> Tensor:  # [size, C/2]
        coordinate = torch.arange(1, size + 1, dtype=torch.float32, device=device)
        angle = (coordinate / (size + epsilon) * (2 * math.pi))[:, None] / wavelength
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=-1).flatten(1)

    y = encode(height)[:, None].expand(-1, width, -1)
    x = encode(width)[None].expand(height, -1, -1)
    return torch.cat((y, x), dim=-1).flatten(0, 1)


class FeedForward(nn.Module):
    """x + W2 relu(W1 x): [..., C] -> [..., C]. The nested Sequential gives the published parameter names."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True)), nn.Linear(hidden, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class MultiheadAttention(nn.Module):
    """Multi-head attention with a residual connection: query + attend(query + positions, key + positions, value).

    `attn` holds the parameters under PyTorch's names; the product itself is `scaled_dot_product_attention`, whose mask
    needs no copy per head.

    Shape:
        query, query_position [N, Q, C]; key [N, S, C]; key_position [S, C] or [N, S, C]; value [N, S, C];
        blocked [N, Q, S] bool, True where a query may not look; output [N, Q, C].
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(channels, num_heads, batch_first=True)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        query_position: Tensor,
        key_position: Tensor,
        blocked: Tensor | None = None,
    ) -> Tensor:
        weights, biases = self.attn.in_proj_weight.chunk(3), self.attn.in_proj_bias.chunk(3)
        inputs = (query + query_position, key + key_position, value)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.attn.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in zip(inputs, weights, biases, strict=True)
        )  # [N, heads, Q or S, C / heads]
        may_look = None if blocked is None else ~blocked[:, None]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=may_look)
        return query + self.attn.out_proj(attended.transpose(1, 2).flatten(-2))


class MultiScaleDeformableAttention(nn.Module):
    """Multi-scale deformable attention with a residual connection (Deformable DETR, arXiv 2010.04159, equation 3).

    Every position of every level predicts, for each head, `num_points` offsets (in pixels) and weights on each level;
    the values sampled there are summed. Offsets and the weights' softmax are float32 under autocast.

    Shape:
        query [N, S, C] (all levels, flattened and concatenated), position [S, C], reference [S, 2] (x, y in 0..1),
        sizes [L, 2] int64 (height, width); output [N, S, C].
    """

    def __init__(self, channels: int, num_heads: int, *, num_levels: int, num_points: int = 4) -> None:
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.sampling_offsets = nn.Linear(channels, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(channels, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts with one direction per head, point i at i + 1 pixels, and equal weights (paper, appendix A.5)."""
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)  # [M, 2]
        distance = torch.arange(1, self.num_points + 1)
        offsets = direction[:, None, None] * distance[:, None]  # [M, 1, P, 2]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())
        for weight in (self.sampling_offsets.weight, self.attention_weights.weight, self.attention_weights.bias):
            nn.init.zeros_(weight)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, *, position: Tensor, reference: Tensor, sizes: Tensor) -> Tensor:
        N, S, _ = query.shape
        M, L, P = self.num_heads, self.num_levels, self.num_points
        located = query + position
        offsets = linear_in_float32(self.sampling_offsets, located).view(N, S, M, L, P, 2)
        weights = linear_in_float32(self.attention_weights, located).view(N, S, M, L, P)  # logits
        starts = torch.cat((sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]))
        locations = reference[:, None, None, None] + offsets / sizes.flip(1)[:, None]  # pixels -> 0..1
        value = self.value_proj(query).view(N, S, M, -1)
        attended = vss_ops.ms_deform_attn(value, sizes, starts, locations, weights, softmax=True)  # [N, S, C]
        return query + self.output_proj(attended)
