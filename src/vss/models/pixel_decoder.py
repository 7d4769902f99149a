"""Mask2Former's pixel decoder: deformable attention over strides 32, 16, 8, then one FPN step to stride 4."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from vss.models.attention import FeedForward, MultiScaleDeformableAttention, sine_position
from vss.models.layers import maybe_checkpoint

_NUM_LEVELS = 3
_GROUP_NORM = {"type": "GN", "num_groups": 32}


class EncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward, each followed by a LayerNorm; [N, S, C] -> [N, S, C]."""

    def __init__(self, *, channels: int, num_heads: int, ffn_channels: int) -> None:
        super().__init__()
        self.self_attn = MultiScaleDeformableAttention(channels, num_heads, num_levels=_NUM_LEVELS)
        self.ffn = FeedForward(channels, ffn_channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, sizes: Tensor) -> Tensor:
        x = self.norms[0](self.self_attn(x, position=position, reference=reference, sizes=sizes))
        return self.norms[1](self.ffn(x))


class Encoder(nn.Module):
    """A stack of `EncoderLayer`s; only there for the parameter names `encoder.layers.i`."""

    def __init__(self, *, num_layers: int, with_cp: bool, **layer: int) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.layers = nn.ModuleList(EncoderLayer(**layer) for _ in range(num_layers))

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, sizes: Tensor) -> Tensor:
        for layer in self.layers:
            x = maybe_checkpoint(self.with_cp, layer, x, position, reference, sizes)
        return x


class PixelDecoder(nn.Module):
    """Pixel decoder of Mask2Former (arXiv 2112.01527, section 3.2.1; Deformable DETR's encoder plus one FPN level).

    Args:
        in_channels: channels of the backbone's four feature maps, strides 4, 8, 16, 32.
        channels: C of everything that follows, a multiple of 32 (GroupNorm).
        num_heads, num_layers, ffn_channels: of the encoder.
        with_cp: gradient checkpointing of every encoder layer.

    Shape:
        features: four maps [N, in_channels[i], Hi, Wi] ->
        mask features [N, C, H0, W0] (stride 4) and three memories [N, C, Hi, Wi], strides 32, 16, 8 in this order.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        channels: int,
        num_heads: int,
        num_layers: int,
        ffn_channels: int,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.channels = channels
        coarse_first = list(in_channels)[:0:-1]
        self.input_convs = nn.ModuleList(
            ConvModule(c, channels, 1, bias=True, norm_cfg=_GROUP_NORM, act_cfg=None) for c in coarse_first
        )
        self.encoder = Encoder(
            num_layers=num_layers, with_cp=with_cp, channels=channels, num_heads=num_heads, ffn_channels=ffn_channels
        )
        self.level_encoding = nn.Embedding(_NUM_LEVELS, channels)
        self.lateral_convs = nn.ModuleList(
            [ConvModule(in_channels[0], channels, 1, norm_cfg=_GROUP_NORM, act_cfg=None)]
        )
        self.output_convs = nn.ModuleList([ConvModule(channels, channels, 3, padding=1, norm_cfg=_GROUP_NORM)])
        self.mask_feature = nn.Conv2d(channels, channels, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weights from Xavier's distribution and the level encoding from a normal one."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)  # Caffe2's Xavier
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        for module in self.encoder.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.reset_parameters()
        nn.init.normal_(self.level_encoding.weight)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        levels = [conv(feature) for conv, feature in zip(self.input_convs, features[:0:-1], strict=True)]
        sizes = [tuple(level.shape[-2:]) for level in levels]
        memory = self.encoder(
            torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1),  # [N, S, C]
            self._positions(sizes, levels[0].device),
            _pixel_centres(sizes, levels[0].device),
            torch.tensor(sizes, device=levels[0].device),
        )
        parts = memory.transpose(1, 2).split([h * w for h, w in sizes], dim=-1)
        memories = [part.unflatten(-1, size) for part, size in zip(parts, sizes, strict=True)]
        lateral = self.lateral_convs[0](features[0])
        up = F.interpolate(memories[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        return self.mask_feature(self.output_convs[0](lateral + up)), memories

    def _positions(self, sizes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:  # [S, C]
        positions = [sine_position(h, w, channels=self.channels, device=device) for h, w in sizes]
        return torch.cat([p + level for p, level in zip(positions, self.level_encoding.weight, strict=True)])


def _pixel_centres(sizes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """Returns the centres (x, y) in 0..1 of every pixel of every level, rows first: [S, 2]."""
    centres = []
    for height, width in sizes:
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        centres.append(torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), dim=-1).flatten(0, 1))
    return torch.cat(centres)
