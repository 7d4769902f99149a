"""InternImage backbone (Wang et al., "InternImage: Exploring Large-Scale Vision Foundation Models with Deformable
Convolutions", arXiv 2211.05778), with the parameter names of OpenGVLab/InternImage's published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from vss.models.dcnv3 import DCNv3
from vss.models.layers import layer_norm, maybe_checkpoint


class MLP(nn.Module):
    """Two linear layers with GELU between; [..., C] -> [..., C], hidden size C * mlp_ratio."""

    def __init__(self, *, channels: int, mlp_ratio: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, int(channels * mlp_ratio))
        self.act = nn.GELU()
        self.fc2 = nn.Linear(int(channels * mlp_ratio), channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class InternImageLayer(nn.Module):
    """One block: DCNv3 and MLP, each with a residual connection (arXiv 2211.05778, figure 3 and appendix B).

    Where the norms stand: before the operator (T), after it (`post_norm`: S, B, L, XL, G) or on both sides
    (`res_post_norm`: H). `layer_scale` adds a learnt factor per channel (`gamma1`, `gamma2`).

    Shape:
        [N, H, W, C] -> [N, H, W, C].
    """

    def __init__(
        self,
        *,
        channels: int,
        group: int,
        mlp_ratio: float,
        drop_path: float,
        layer_scale: float | None,
        offset_scale: float,
        post_norm: bool,
        dw_kernel_size: int,
        res_post_norm: bool,
        center_feature_scale: bool,
        remove_center: bool,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.post_norm, self.with_cp = post_norm, with_cp
        # As published: layer scale and post norm leave the residual norms aside (which are parameters nevertheless).
        self.res_post_norm = res_post_norm and layer_scale is None and not post_norm
        self.norm1 = layer_norm(channels)
        self.dcn = DCNv3(
            channels=channels,
            group=group,
            dw_kernel_size=dw_kernel_size,
            offset_scale=offset_scale,
            center_feature_scale=center_feature_scale,
            remove_center=remove_center,
        )
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = layer_norm(channels)
        self.mlp = MLP(channels=channels, mlp_ratio=mlp_ratio)
        self.gamma1 = self.gamma2 = None
        if layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((channels,), layer_scale))
            self.gamma2 = nn.Parameter(torch.full((channels,), layer_scale))
        if res_post_norm:
            self.res_post_norm1 = layer_norm(channels)
            self.res_post_norm2 = layer_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return maybe_checkpoint(self.with_cp, self._forward, x)

    def _forward(self, x: Tensor) -> Tensor:
        after = (self.res_post_norm1, self.res_post_norm2) if self.res_post_norm else (None, None)
        x = x + self.drop_path(self._branch(x, self.dcn, self.norm1, after[0], self.gamma1))
        return x + self.drop_path(self._branch(x, self.mlp, self.norm2, after[1], self.gamma2))

    def _branch(
        self, x: Tensor, operator: nn.Module, norm: nn.Module, after: nn.Module | None, gamma: Tensor | None
    ) -> Tensor:
        y = norm(operator(x)) if self.post_norm else operator(norm(x))
        if after is not None:
            y = after(y)
        return y if gamma is None else gamma * y


class InternImageStage(nn.Module):
    """The blocks of one resolution, extra norms after some of them, a last norm, and the step down to the next stage.

    Shape:
        [N, H, W, C] -> feature [N, H, W, C] and next stage's input [N, ceil(H/2), ceil(W/2), 2C] (None after the last).
    """

    def __init__(
        self,
        *,
        channels: int,
        drop_paths: Sequence[float],
        post_norm_block_ids: Sequence[int],
        downsample: bool,
        **block: Any,
    ) -> None:
        super().__init__()
        self.post_norm_block_ids = list(post_norm_block_ids)
        self.blocks = nn.ModuleList(InternImageLayer(channels=channels, drop_path=p, **block) for p in drop_paths)
        has_last_norm = not block["post_norm"] or block["center_feature_scale"]
        self.norm = layer_norm(channels) if has_last_norm else None
        if self.post_norm_block_ids:
            self.post_norms = nn.ModuleList(layer_norm(channels) for _ in self.post_norm_block_ids)
        self.downsample = _Downsample(channels) if downsample else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.post_norm_block_ids:
                x = self.post_norms[self.post_norm_block_ids.index(i)](x)
        if self.norm is not None:
            x = self.norm(x)
        return x, None if self.downsample is None else self.downsample(x)


class _Stem(nn.Module):
    """Two 3x3 convolutions of stride 2: image [N, 3, H, W] -> [N, ceil(H/4), ceil(W/4), C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels // 2, 3, stride=2, padding=1)
        self.norm1 = layer_norm(channels // 2, channels_first=True, restore=True)
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
        self.norm2 = layer_norm(channels, channels_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))


class _Downsample(nn.Module):
    """A 3x3 convolution of stride 2 and a norm: [N, H, W, C] -> [N, ceil(H/2), ceil(W/2), 2C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.norm = layer_norm(2 * channels, channels_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.permute(0, 3, 1, 2)))


@MODELS.register_module()
class InternImage(BaseModule):
    """InternImage backbone (arXiv 2211.05778, section 3.2, figure 4 and table 1).

    Args:
        channels: C of the first stage; stage i has C * 2**i channels.
        depths: number of blocks of the four stages.
        groups: number of DCNv3 groups of the four stages.
        mlp_ratio: hidden size of the MLPs divided by their channels.
        drop_path_rate: stochastic depth, growing linearly from 0 at the first block to this at the last.
        layer_scale: initial value of gamma1 and gamma2; None leaves them out.
        offset_scale: factor on kernel grid and offsets (DCNv3).
        post_norm, res_post_norm: where norms stand (InternImageLayer).
        dw_kernel_size: of the depthwise convolution in DCNv3; 3, or 5 for H and G.
        level2_post_norm, level2_post_norm_block_ids: extra norms after these blocks of the third stage (H, G).
        center_feature_scale: see DCNv3 (H, G).
        remove_center: see DCNv3.
        with_cp: gradient checkpointing of every block.
        out_indices: stages whose features are returned.
        init_cfg: MMEngine's.

    Shape:
        image [N, 3, H, W] float, normalised RGB -> tuple of features [N, C * 2**i, H / 2**(i+2), W / 2**(i+2)] (sizes
        rounded up at each halving), one for each i in `out_indices`.

    Upstream: OpenGVLab/InternImage segmentation/mmseg_custom/models/backbones/intern_image.py @31c962d.
    """

    uses_vss_ops = True

    def __init__(
        self,
        *,
        channels: int = 64,
        depths: Sequence[int] = (4, 4, 18, 4),
        groups: Sequence[int] = (4, 8, 16, 32),
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        layer_scale: float | None = None,
        offset_scale: float = 1.0,
        post_norm: bool = False,
        dw_kernel_size: int = 3,
        res_post_norm: bool = False,
        level2_post_norm: bool = False,
        level2_post_norm_block_ids: Sequence[int] | None = None,
        center_feature_scale: bool = False,
        remove_center: bool = False,
        with_cp: bool = False,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.out_indices = tuple(out_indices)
        self.num_features = [channels * 2**i for i in range(len(depths))]
        self.patch_embed = _Stem(channels)
        drop_paths = torch.linspace(0, drop_path_rate, sum(depths)).tolist()
        self.levels = nn.ModuleList()
        for i, depth in enumerate(depths):
            start = sum(depths[:i])
            stage = InternImageStage(
                channels=self.num_features[i],
                drop_paths=drop_paths[start : start + depth],
                post_norm_block_ids=(level2_post_norm_block_ids or ()) if level2_post_norm and i == 2 else (),
                downsample=i < len(depths) - 1,
                group=groups[i],
                mlp_ratio=mlp_ratio,
                layer_scale=layer_scale,
                offset_scale=offset_scale,
                post_norm=post_norm,
                dw_kernel_size=dw_kernel_size,
                res_post_norm=res_post_norm,
                center_feature_scale=center_feature_scale,
                remove_center=remove_center,
                with_cp=with_cp,
            )
            self.levels.append(stage)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for module in self.modules():  # after the general rule, which it overrides
            if isinstance(module, DCNv3):
                module.reset_parameters()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.patch_embed(image)
        features = []
        for i, level in enumerate(self.levels):
            feature, x = level(x)
            if i in self.out_indices:
                features.append(feature.permute(0, 3, 1, 2).contiguous())
        return tuple(features)
