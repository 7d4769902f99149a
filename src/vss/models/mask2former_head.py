"""Mask2Former as an MMSegmentation decode head (Cheng et al., "Masked-attention Mask Transformer for Universal Image
Segmentation", arXiv 2112.01527), without mmdet, with the parameter names of mmdet 3 / MMSegmentation 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mmseg.models  # noqa: F401  registers the class of the same name that is replaced below
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from vss.models.attention import sine_position
from vss.models.mask_classification import MaskClassificationHead
from vss.models.pixel_decoder import PixelDecoder
from vss.models.transformer_decoder import TransformerDecoder

_NUM_LEVELS = 3


# MMSegmentation's own class of this name is a shell around mmdet, which this project does not need.
@MODELS.register_module(force=True)
class Mask2FormerHead(MaskClassificationHead):
    """Mask2Former head: Q queries, each a class distribution and a mask (arXiv 2112.01527, figure 2).

    The pixel decoder gives memories at strides 32, 16, 8 and mask features at stride 4. A prediction is made from the
    learnt queries, and again after each decoder layer. Layer i looks at memory i % 3, and each query only where its
    last mask, resized bilinearly to that memory, is at least 0.5; a query whose mask is empty there looks everywhere.

    Args:
        in_channels: channels of the four feature maps.
        num_classes: C; the class layer has C + 1 outputs, the last is "no object".
        feat_channels: width of pixel and transformer decoder.
        num_queries: Q.
        num_heads: of every attention.
        encoder_layers, encoder_ffn_channels: of the pixel decoder.
        decoder_layers, decoder_ffn_channels: of the transformer decoder.
        with_cp: gradient checkpointing of every encoder and decoder layer.
        loss: further arguments of `MaskClassificationHead`.

    Shape:
        features: four maps [N, in_channels[i], H / s, W / s], s = 4, 8, 16, 32 ->
        class logits [N, Q, C + 1] and mask logits [N, Q, H / 4, W / 4], one of each for every prediction.
    """

    uses_vss_ops = True

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        num_classes: int,
        feat_channels: int = 256,
        num_queries: int = 100,
        num_heads: int = 8,
        encoder_layers: int = 6,
        encoder_ffn_channels: int = 1024,
        decoder_layers: int = 9,
        decoder_ffn_channels: int = 2048,
        with_cp: bool = False,
        **loss: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, num_queries=num_queries, **loss)
        self.in_channels = list(in_channels)
        self.pixel_decoder = PixelDecoder(
            in_channels=in_channels,
            channels=feat_channels,
            num_heads=num_heads,
            num_layers=encoder_layers,
            ffn_channels=encoder_ffn_channels,
            with_cp=with_cp,
        )
        self.transformer_decoder = TransformerDecoder(
            num_layers=decoder_layers,
            channels=feat_channels,
            num_heads=num_heads,
            ffn_channels=decoder_ffn_channels,
            with_cp=with_cp,
        )
        self.query_embed = nn.Embedding(num_queries, feat_channels)  # added to queries in every attention
        self.query_feat = nn.Embedding(num_queries, feat_channels)  # the queries before the first layer
        self.level_embed = nn.Embedding(_NUM_LEVELS, feat_channels)
        self.cls_embed = nn.Linear(feat_channels, num_classes + 1)
        self.mask_embed = nn.Sequential(
            nn.Linear(feat_channels, feat_channels),
            nn.ReLU(inplace=True),
            nn.Linear(feat_channels, feat_channels),
            nn.ReLU(inplace=True),
            nn.Linear(feat_channels, feat_channels),
        )

    def _predictions(self, features: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (class logits, mask logits) before the first and after every decoder layer."""
        mask_features, memories = self.pixel_decoder(features)
        N, C, device = len(mask_features), mask_features.shape[1], mask_features.device
        sizes = [memory.shape[-2:] for memory in memories]
        positions = [sine_position(h, w, channels=C, device=device) for h, w in sizes]
        memories = [
            memory.flatten(2).transpose(1, 2) + level
            for memory, level in zip(memories, self.level_embed.weight, strict=True)
        ]  # [N, h * w, C]
        query = self.query_feat.weight.expand(N, -1, -1)
        query_position = self.query_embed.weight.expand(N, -1, -1)
        class_logits, mask_logits = self._predict(query, mask_features)
        yield class_logits, mask_logits
        for i in range(len(self.transformer_decoder.layers)):
            level = i % _NUM_LEVELS
            blocked = _blocked(mask_logits, sizes[level])
            query = self.transformer_decoder.run_layer(
                i, query, query_position, memories[level], positions[level], blocked
            )
            class_logits, mask_logits = self._predict(query, mask_features)
            yield class_logits, mask_logits

    def _predict(self, query: Tensor, mask_features: Tensor) -> tuple[Tensor, Tensor]:
        query = self.transformer_decoder.post_norm(query)
        return self.cls_embed(query), torch.einsum("nqc,nchw->nqhw", self.mask_embed(query), mask_features)


def _blocked(mask_logits: Tensor, size: Sequence[int]) -> Tensor:
    """Returns where queries may not look, [N, Q, h * w] bool: mask below 0.5, unless that blocks a whole row."""
    with torch.no_grad():
        resized = F.interpolate(mask_logits, size=tuple(size), mode="bilinear", align_corners=False)
        blocked = resized.flatten(2).sigmoid() < 0.5
        return blocked & ~blocked.all(-1, keepdim=True)
