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


def vit_settings(
    *, hidden_size: int, num_heads: int, num_layers: int, patch_size: int, image_size: int
) -> dict[str, Any]:
    """Returns the settings that all configs of transformers' vision transformers have, under transformers' names.

    Args:
        hidden_size: channels of a token.
        num_heads: of every attention.
        num_layers: of the transformer.
        patch_size: side of a patch in pixels.
        image_size: side in pixels of the square image that the table of positions is for (dinov2).
    """
    return dict(
        hidden_size=hidden_size,
        num_attention_heads=num_heads,
        num_hidden_layers=num_layers,
        patch_size=patch_size,
        image_size=image_size,
        attn_implementation="sdpa",
    )


def eomt_modules(
    architecture: str,
    *,
    patch_size: int = 16,
    image_size: int = 512,
    num_register_tokens: int = 4,
    drop_path_rate: float = 0.0,
    num_queries: int = 1,
    num_classes: int = 1,
    intermediate_size: int | None = None,
    **vit: Any,
) -> Any:
    """Returns transformers' EoMT with drawn weights, of whose parts our modules are made.

    Args:
        architecture: "dinov2" (learnt positions) or "dinov3" (rotary ones): of the layers.
        patch_size, image_size, vit: arguments of `vit_settings`.
        num_register_tokens: between the class token and the patches.
        drop_path_rate: of stochastic depth.
        num_queries, num_classes: of the head.
        intermediate_size: hidden channels of the feed-forward networks (dinov3); None = 4 * hidden_size.
    """
    settings = vit_settings(patch_size=patch_size, image_size=image_size, **vit)
    common: dict[str, Any] = settings | dict(
        num_blocks=min(settings["num_hidden_layers"], 1),
        num_register_tokens=num_register_tokens,
        drop_path_rate=drop_path_rate,
        num_queries=num_queries,
        num_labels=num_classes,
        num_upscale_blocks=max(1, int(math.log2(patch_size)) - 2),
    )
    if architecture == "dinov2":
        from transformers import EomtConfig, EomtForUniversalSegmentation

        return EomtForUniversalSegmentation(EomtConfig(**common))
    from transformers import EomtDinov3Config, EomtDinov3ForUniversalSegmentation

    config = EomtDinov3Config(
        **common, intermediate_size=intermediate_size or 4 * common["hidden_size"], layer_norm_eps=_DINOV3_EPS
    )
    return EomtDinov3ForUniversalSegmentation(config)


@MODELS.register_module()
class EomtEncoder(BaseModule):
    """The layers of an EoMT before its queries enter (Kerssies et al., arXiv 2503.19108, figure 2).

    Args:
        architecture: "dinov2" or "dinov3".
        with_cp: gradient checkpointing of every layer.
        init_cfg: MMEngine's.
        vit: further arguments of `eomt_modules`. num_layers are those of this part; the head has the others. The table
            of positions of `image_size` is resized bicubically for images of other sizes.

    Shape:
        images [N, 3, H, W] normalised -> `TokenFeatures` with one map.
    """

    def __init__(self, *, architecture: str, with_cp: bool = False, init_cfg: dict | None = None, **vit: Any) -> None:
        super().__init__(init_cfg)
        whole = eomt_modules(architecture, **vit)
        self.embeddings, self.layers = whole.embeddings, whole.layers
        self.patch_size, self.with_cp = whole.config.patch_size, with_cp
        self._head_dim, self._has_rope = _head_dim(whole.config), architecture == "dinov3"
        self._num_prefix = 1 + whole.config.num_register_tokens

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
        out_layers: numbers of the layers that are given to the head, from 0.
        num_register_tokens: between the class token and the patches (dinov3).
        with_cp: not looked at; part of every backbone's interface.
        init_cfg: MMEngine's.
        image_size, vit: arguments of `vit_settings`.

    Shape:
        images [N, 3, H, W] normalised -> `TokenFeatures` with a map for every one of `out_layers`, without prefix.
    """

    def __init__(
        self,
        *,
        architecture: str,
        out_layers: Sequence[int],
        num_register_tokens: int = 0,
        image_size: int = 518,
        with_cp: bool = False,
        init_cfg: dict | None = None,
        **vit: Any,
    ) -> None:
        super().__init__(init_cfg)
        common = vit_settings(image_size=image_size, **vit)
        self._has_rope = architecture == "dinov3"
        if self._has_rope:
            from transformers import DINOv3ViTConfig, DINOv3ViTModel

            feed_forward = 4 * common["hidden_size"]
            whole = DINOv3ViTModel(
                DINOv3ViTConfig(**common, intermediate_size=feed_forward, num_register_tokens=num_register_tokens)
            )
            self.embeddings, self.layers, self.norm = whole.embeddings, whole.model.layer, whole.norm
            self.embeddings.register_parameter("mask_token", None)
        else:
            assert num_register_tokens == 0, "DINOv2 with registers is another class of transformers"
            from transformers import Dinov2Config, Dinov2Model

            whole = Dinov2Model(Dinov2Config(**common, use_mask_token=False))
            self.embeddings, self.layers, self.norm = whole.embeddings, whole.encoder.layer, whole.layernorm
        self.patch_size, self._out_layers = whole.config.patch_size, tuple(out_layers)
        self._head_dim, self._num_prefix = _head_dim(whole.config), 1 + num_register_tokens
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


def _head_dim(config: Any) -> int:
    """Returns the channels of an attention head, by a config of transformers."""
    return config.hidden_size // config.num_attention_heads


def _as_map(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """Returns patch tokens [N, h * w, C] as a map [N, C, h, w]."""
    return tokens.transpose(1, 2).unflatten(2, tuple(grid))
