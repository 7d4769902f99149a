"""The heads of plain vision transformers: the last layers of an EoMT, and the decoder on a frozen encoder.

Sources: arXiv 2503.19108 (EoMT; tue-mps/eomt, and `transformers`, whose modules and parameter names these are) and
arXiv 2603.25398 (PMT; tue-mps/pmt).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmseg.registry import MODELS
from torch import Tensor, nn

from vss.models.mask_classification import MaskClassificationHead
from vss.models.vit import TokenFeatures, eomt_modules, rotary_positions, run_layer

_ANNEALING_POWER = 0.9


@MODELS.register_module()
class EomtHead(MaskClassificationHead):
    """The last layers of a vision transformer with queries among its tokens, each predicting a class and a mask.

    In training a prediction is made before every layer, and a query attends only to patches inside its last mask, with
    a probability that `anneal` takes from 1 to 0, layer after layer; then the model needs neither when it predicts.

    Args:
        num_classes: C; the class layer has C + 1 outputs, the last is "no object".
        architecture: "dinov2" or "dinov3": of the layers.
        hidden_size, num_heads, patch_size: of the vision transformer.
        num_layers: the layers that have queries.
        num_queries: Q.
        intermediate_size: hidden channels of the feed-forward networks (dinov3); None = 4 * hidden_size.
        drop_path_rate: of stochastic depth.
        with_cp: gradient checkpointing of every layer.
        loss: further arguments of `MaskClassificationHead`.

    Shape:
        `TokenFeatures` of images [N, 3, H, W] -> class logits [N, Q, C + 1] and mask logits [N, Q, H / s, W / s]
        (rounded up), one of each for every prediction; s = patch_size / 4 for patches of 16 and 14 pixels.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        architecture: str,
        hidden_size: int,
        num_heads: int,
        patch_size: int = 16,
        num_layers: int = 4,
        num_queries: int = 100,
        intermediate_size: int | None = None,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        **loss: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, num_queries=num_queries, **loss)
        self.patch_size, self.with_cp = patch_size, with_cp
        self._head_dim = hidden_size // num_heads
        whole = eomt_modules(
            architecture,
            hidden_size=hidden_size,
            num_heads=num_heads,
            num_layers=num_layers,
            patch_size=patch_size,
            num_register_tokens=0,
            image_size=patch_size,
            drop_path_rate=drop_path_rate,
            num_queries=num_queries,
            num_classes=num_classes,
            intermediate_size=intermediate_size,
        )
        self.query, self.layers, self.layernorm = whole.query, whole.layers, whole.layernorm
        self.upscale_block, self.mask_head = whole.upscale_block, whole.mask_head
        self.class_predictor = whole.class_predictor
        self._mask_stride = patch_size / 2**whole.config.num_upscale_blocks  # pixels
        # Kept twice: the buffer goes with the weights, the numbers decide without a look at a tensor.
        self.attn_mask_probs: Tensor
        self.register_buffer("attn_mask_probs", torch.ones(num_layers))
        self._mask_probabilities = [1.0] * num_layers

    def anneal(self, progress: float) -> None:
        """Sets the probability with which queries attend to their masks only, for a share 0..1 of a training.

        Of b layers, layer i goes from 1 at (i + 1) / (b + 2) to 0 at (i + 2) / (b + 2), as in EoMT's trainings.
        """
        stages = len(self.layers) + 2
        for i in range(len(self.layers)):
            done = min(max(progress * stages - (i + 1), 0.0), 1.0)
            self._mask_probabilities[i] = (1 - done) ** _ANNEALING_POWER
        self.attn_mask_probs.copy_(torch.tensor(self._mask_probabilities))

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        super()._load_from_state_dict(*arguments, **options)
        if not self.attn_mask_probs.is_meta:
            self._mask_probabilities = self.attn_mask_probs.tolist()

    def _tokens(self, features: TokenFeatures) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Returns the tokens that the queries join, patches last, and the patches' rotary positions."""
        patches = features.maps[0].flatten(2).transpose(1, 2)
        return torch.cat([features.prefix, patches], dim=1), features.rope

    def _predictions(self, features: TokenFeatures) -> Iterator[tuple[Tensor, Tensor]]:
        grid = features.maps[0].shape[-2:]
        tokens, rope = self._tokens(features)
        hidden = torch.cat([self.query.weight.expand(len(tokens), -1, -1), tokens], dim=1)
        # Masks end where the image does, not where the last patch does.
        height, width = (math.ceil(side / self._mask_stride) for side in features.size)
        for layer, probability in zip(self.layers, self._mask_probabilities, strict=True):
            may_look = None
            if self.training or probability >= 0.5:
                class_logits, mask_logits = self._predict(hidden, grid)
                yield class_logits, mask_logits[..., :height, :width]
                may_look = self._may_look(mask_logits, hidden.shape[1], grid, probability)
            hidden = run_layer(layer, self.with_cp, hidden, may_look, rope)
        class_logits, mask_logits = self._predict(hidden, grid)
        yield class_logits, mask_logits[..., :height, :width]

    def _predict(self, hidden: Tensor, grid: torch.Size) -> tuple[Tensor, Tensor]:
        """Returns class logits and mask logits of all patches from tokens [N, Q + P + h * w, C]."""
        hidden = self.layernorm(hidden)
        queries, patches = hidden[:, : self.num_queries], hidden[:, -grid[0] * grid[1] :]
        mask_features = self.upscale_block(patches.transpose(1, 2).unflatten(2, grid))
        mask_logits = torch.einsum("nqc,nchw->nqhw", self.mask_head(queries), mask_features)
        return self.class_predictor(queries), mask_logits

    @torch.no_grad()
    def _may_look(self, mask_logits: Tensor, tokens: int, grid: torch.Size, probability: float) -> Tensor:
        """Returns who may attend to whom, [N, 1, T, T] bool: all to all, but queries to patches inside their masks.

        In training, each query's mask counts with the probability; else it always does.
        """
        N, Q = mask_logits.shape[:2]
        inside = F.interpolate(mask_logits.float(), size=tuple(grid), mode="bilinear").flatten(2) > 0
        if self.training and probability < 1:
            inside = inside | (torch.rand(N, Q, 1, device=inside.device) > probability)
        may_look = inside.new_ones(N, tokens, tokens)
        may_look[:, :Q, -grid[0] * grid[1] :] = inside
        return may_look[:, None]


@MODELS.register_module()
class PlainMaskHead(EomtHead):
    """The decoder on several layers of a frozen encoder: each is projected, their sum joins queries in a few layers.

    Args:
        num_inputs: number of the encoder's layers that are read.
        norm_cfg: MMEngine config of the norm of each; None = none.
        head: arguments of `EomtHead`; the layers are always DINOv3's, drawn, with rotary positions.
    """

    def __init__(
        self, *, num_inputs: int, hidden_size: int, norm_cfg: dict | None = None, num_layers: int = 6, **head: Any
    ) -> None:
        super().__init__(architecture="dinov3", hidden_size=hidden_size, num_layers=num_layers, **head)
        self.norms = nn.ModuleList(
            nn.Identity() if norm_cfg is None else build_norm_layer(norm_cfg, hidden_size)[1] for _ in range(num_inputs)
        )
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden_size, hidden_size // 2), nn.GELU(), nn.Linear(hidden_size // 2, hidden_size))
            for _ in range(num_inputs)
        )
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(hidden_size)) for _ in range(num_inputs))

    def _tokens(self, features: TokenFeatures) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        levels = []
        for norm, project, scale, level in zip(self.norms, self.projections, self.scales, features.maps, strict=True):
            tokens = norm(level).flatten(2).transpose(1, 2)
            levels.append((tokens + project(tokens)) * scale)
        total = torch.stack(levels).sum(0)
        rope = rotary_positions(features.maps[0].shape[-2:], self._head_dim, device=total.device, random=self.training)
        return total, rope
