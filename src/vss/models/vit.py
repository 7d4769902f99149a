"""Vision transformers as backbones, made of the modules of `transformers` (an extra) from numbers, never from a hub.

The modules are transformers', so are their parameters' names; the loops over the layers are ours: transformers' EoMT
runs at one square size only, and its rotary positions are cached in a way that tracing without data spoils.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from vss.models.layers import maybe_checkpoint

_ROPE_BASE = 100.0  # DINOv3, arXiv 2508.10104
_ROPE_RESCALE = 2.0  # in training, coordinates are multiplied by a random factor between its inverse and it
_DINOV3_EPS = 1e-5


class TokenFeatures(NamedTuple):
    """What a vision transformer gives to its head.

    Attributes:
        maps: patch tokens of one or more layers, each [N, C, h, w].
        prefix: class and register tokens of the last layer [N, P, C]; P = 0 where the head has no use for them.
        rope: (cos, sin) of the patches' rotary positions, each [h * w, C / heads], or None.
        size: (height, width) of the image in pixels; the patches may reach beyond it at the right and below.
    """

    maps: tuple[Tensor, ...]
    prefix: Tensor
    rope: tuple[Tensor, Tensor] | None
    size: tuple[int, int]


def pad_to_patches(images: Tensor, patch_size: int) -> Tensor:
    """Pads normalised images [N, 3, H, W] with zeros at the right and below to whole patches."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % patch_size, 0, -height % patch_size))


def rotary_positions(
    grid: Sequence[int], head_dim: int, *, device: torch.device, random: bool
) -> tuple[Tensor, Tensor]:
    """Returns DINOv3's (cos, sin) of the patches of a grid (h, w), each [h * w, head_dim] float32.

    Args:
        grid: number of patches.
        head_dim: channels of an attention head, a multiple of 4.
        device: of the result.
        random: whether coordinates are rescaled by a random factor, as in training.
    """
    frequencies = _ROPE_BASE ** -torch.arange(0, 1, 4 / head_dim, dtype=torch.float32, device=device)
    y, x = (2 * torch.arange(0.5, side, device=device) / side - 1 for side in grid)  # centres, -1..1
    centres = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)  # [h * w, 2]
    if random:
        reach = math.log(_ROPE_RESCALE)
        centres = centres * torch.empty(1, device=device).uniform_(-reach, reach).exp()
    angles = (2 * math.pi * centres[:, :, None] * frequencies).flatten(1).tile(2)
    return angles.cos(), angles.sin()


def run_layer(layer: nn.Module, with_cp: bool, hidden: Tensor, may_look: Tensor | None, rope: Any) -> Tensor:
    """Applies a layer of transformers' to tokens [N, T, C]; may_look [N, 1, T, T] bool or None."""
    if rope is None:
        return maybe_checkpoint(with_cp, layer, hidden, may_look)
    return maybe_checkpoint(with_cp, layer, hidden, may_look, rope)


def eomt_modules(
    architecture: str,
    *,
    hidden_size: int,
    num_heads: int,
    num_layers: int,
    patch_size: int,
    num_register_tokens: int,
    image_size: int,
    drop_path_rate: float = 0.0,
    num_queries: int = 1,
    num_classes: int = 1,
    intermediate_size: int | None = None,
) -> Any:
    """Returns transformers' EoMT with `num_layers` layers and drawn weights, of whose parts our modules are made.

    Args:
        architecture: "dinov2" (learnt positions) or "dinov3" (rotary ones): of the layers.
        image_size: side of the square image that the table of positions is for (dinov2).
        intermediate_size: hidden channels of the feed-forward networks (dinov3); None = 4 * hidden_size.
    """
    common: dict[str, Any] = dict(
        hidden_size=hidden_size,
        num_attention_heads=num_heads,
        num_hidden_layers=num_layers,
        num_blocks=min(num_layers, 1),
        patch_size=patch_size,
        num_register_tokens=num_register_tokens,
        image_size=image_size,
        drop_path_rate=drop_path_rate,
        num_queries=num_queries,
        num_labels=num_classes,
        num_upscale_blocks=max(1, int(math.log2(patch_size)) - 2),
        attn_implementation="sdpa",
    )
    if architecture == "dinov2":
        from transformers import EomtConfig, EomtForUniversalSegmentation

        return EomtForUniversalSegmentation(EomtConfig(**common))
    from transformers import EomtDinov3Config, EomtDinov3ForUniversalSegmentation

    config = EomtDinov3Config(
        **common, intermediate_size=intermediate_size or 4 * hidden_size, layer_norm_eps=_DINOV3_EPS
    )
    return EomtDinov3ForUniversalSegmentation(config)


@MODELS.register_module()
class EomtEncoder(BaseModule):
    """The layers of an EoMT before its queries enter (Kerssies et al., arXiv 2503.19108, figure 2).

    Args:
        architecture: "dinov2" or "dinov3".
        hidden_size, num_heads, patch_size, num_register_tokens: of the vision transformer.
        num_layers: of this part; the head has the others.
        image_size: side of the square image that the table of positions is for; resized bicubically for others.
        drop_path_rate: of stochastic depth.
        with_cp: gradient checkpointing of every layer.
        init_cfg: MMEngine's.

    Shape:
        images [N, 3, H, W] normalised -> `TokenFeatures` with one map.
    """

    def __init__(
        self,
        *,
        architecture: str,
        hidden_size: int,
        num_heads: int,
        num_layers: int,
        patch_size: int = 16,
        num_register_tokens: int = 4,
        image_size: int = 512,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.patch_size, self.with_cp = patch_size, with_cp
        self._head_dim, self._has_rope = hidden_size // num_heads, architecture == "dinov3"
        whole = eomt_modules(
            architecture,
            hidden_size=hidden_size,
            num_heads=num_heads,
            num_layers=num_layers,
            patch_size=patch_size,
            num_register_tokens=num_register_tokens,
            image_size=image_size,
            drop_path_rate=drop_path_rate,
        )
        self.embeddings, self.layers = whole.embeddings, whole.layers
        self._num_prefix = 1 + num_register_tokens

    def forward(self, images: Tensor) -> TokenFeatures:
        size = (images.shape[-2], images.shape[-1])
        images = pad_to_patches(images, self.patch_size)
        grid = [side // self.patch_size for side in images.shape[-2:]]
        rope = None
        if self._has_rope:
            hidden = self.embeddings(images)
            rope = rotary_positions(grid, self._head_dim, device=images.device, random=self.training)
        else:
            hidden = self._embed_with_positions(images, grid)
        for layer in self.layers:
            hidden = run_layer(layer, self.with_cp, hidden, None, rope)
        return TokenFeatures((_as_map(hidden[:, self._num_prefix :], grid),), hidden[:, : self._num_prefix], rope, size)

    def _embed_with_positions(self, images: Tensor, grid: Sequence[int]) -> Tensor:
        patches = self.embeddings.patch_embeddings(images)
        positions = self.embeddings.position_embeddings.weight  # [side * side, C]
        side = math.isqrt(len(positions))
        if list(grid) != [side, side]:
            table = positions.float().view(1, side, side, -1).permute(0, 3, 1, 2)
            table = F.interpolate(table, size=tuple(grid), mode="bicubic", align_corners=False)
            positions = table.flatten(2).transpose(1, 2)[0].to(positions.dtype)
        prefix = (self.embeddings.cls_token, self.embeddings.register_tokens)
        return torch.cat([*(token.expand(len(images), -1, -1) for token in prefix), patches + positions], dim=1)


@MODELS.register_module()
class FrozenEncoder(BaseModule):
    """A DINOv2 or DINOv3 that is never trained: several of its layers, normalised as its last one.

    After PMT (Cavagnero et al., arXiv 2603.25398). It stays in evaluation mode, and no gradient is recorded.

    Args:
        architecture: "dinov2" or "dinov3".
        hidden_size, num_heads, num_layers, patch_size, num_register_tokens: of the vision transformer.
        out_layers: numbers of the layers that are given to the head, from 0.
        image_size: side of the square image that DINOv2's table of positions is for.
        with_cp: not looked at; part of every backbone's interface.
        init_cfg: MMEngine's.

    Shape:
        images [N, 3, H, W] normalised -> `TokenFeatures` with a map for every one of `out_layers`, without prefix.
    """

    def __init__(
        self,
        *,
        architecture: str,
        hidden_size: int,
        num_heads: int,
        num_layers: int,
        out_layers: Sequence[int],
        patch_size: int,
        num_register_tokens: int = 0,
        image_size: int = 518,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.patch_size, self._out_layers = patch_size, tuple(out_layers)
        self._head_dim, self._has_rope = hidden_size // num_heads, architecture == "dinov3"
        self._num_prefix = 1 + num_register_tokens
        common: dict[str, Any] = dict(
            hidden_size=hidden_size,
            num_attention_heads=num_heads,
            num_hidden_layers=num_layers,
            patch_size=patch_size,
            image_size=image_size,
            attn_implementation="sdpa",
        )
        if self._has_rope:
            from transformers import DINOv3ViTConfig, DINOv3ViTModel

            config = DINOv3ViTConfig(
                **common, intermediate_size=4 * hidden_size, num_register_tokens=num_register_tokens
            )
            whole = DINOv3ViTModel(config)
            self.embeddings, self.layers, self.norm = whole.embeddings, whole.model.layer, whole.norm
            self.embeddings.register_parameter("mask_token", None)
        else:
            assert num_register_tokens == 0, "DINOv2 with registers is another class of transformers"
            from transformers import Dinov2Config, Dinov2Model

            whole = Dinov2Model(Dinov2Config(**common, use_mask_token=False))
            self.embeddings, self.layers, self.norm = whole.embeddings, whole.encoder.layer, whole.layernorm
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> TokenFeatures:
        size = (images.shape[-2], images.shape[-1])
        images = pad_to_patches(images, self.patch_size)
        grid = [side // self.patch_size for side in images.shape[-2:]]
        hidden = self.embeddings(images)
        rope = None
        if self._has_rope:
            rope = rotary_positions(grid, self._head_dim, device=images.device, random=False)
        maps = []
        for number, layer in enumerate(self.layers[: max(self._out_layers) + 1]):
            hidden = run_layer(layer, False, hidden, None, rope)
            if number in self._out_layers:
                maps.append(_as_map(self.norm(hidden)[:, self._num_prefix :], grid))
        return TokenFeatures(tuple(maps), hidden[:, :0], None, size)


def _as_map(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """Returns patch tokens [N, h * w, C] as a map [N, C, h, w]."""
    return tokens.transpose(1, 2).unflatten(2, tuple(grid))
