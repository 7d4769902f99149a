"""Proposals of Segment Anything's automatic mask generator (package `segment-anything`).

The architecture is read off the weights, so that a file cannot be loaded into the wrong variant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor

from vss.core.batch_size import BatchSize
from vss.core.device import resolve_device
from vss.core.errors import UserError
from vss.models.rows import IMAGE_MEAN, IMAGE_STD
from vss.refine.precision import working_dtype
from vss.refine.proposals import RunLengths
from vss.refine.settings import SamSettings
from vss.weights.weights_file import read_weights

# "authors": sam/sam_post.py of DUT-CSJ/PVUW2023-VSS-3rd. "fast": the package's own defaults, about a tenth of the work.
_PRESETS: dict[str, dict[str, float]] = {
    "authors": {
        "points_per_side": 64,
        "pred_iou_thresh": 0.86,
        "stability_score_thresh": 0.92,
        "crop_n_layers": 1,
        "crop_n_points_downscale_factor": 2,
        "min_mask_region_area": 100,
    },
    "fast": {
        "points_per_side": 32,
        "pred_iou_thresh": 0.88,
        "stability_score_thresh": 0.95,
        "crop_n_layers": 0,
        "crop_n_points_downscale_factor": 1,
        "min_mask_region_area": 0,
    },
}


class SamProposer:
    """Makes the masks of SAM's automatic mask generator, in its order.

    Args:
        sam: the model, in eval mode on its device.
        parameters: keyword arguments of `SamAutomaticMaskGenerator`.
    """

    def __init__(self, sam: Sam, **parameters: Any) -> None:
        # Run lengths spare the package's need of pycocotools; the masks are the same.
        self.device = str(sam.device)
        self._generator = SamAutomaticMaskGenerator(sam, output_mode="uncompressed_rle", **parameters)
        self._points, self._points_at_once = self._generator.points_per_batch, BatchSize("propose sam", "points")

    @classmethod
    def load(cls, settings: SamSettings, *, weights: str | None, device: str) -> SamProposer:
        """Builds the generator from weights and settings.

        Args:
            settings: the preset, and what overrides it.
            weights: the released .pth or a safetensors file of the same names.
            device: "auto", "cpu", "cuda" or "cuda:N".

        Raises:
            UserError: weights missing, unreadable or not SAM's.
        """
        preset = _PRESETS[settings.preset]
        parameters = {
            key: preset[key] if value is None else value
            for key, value in asdict(settings).items()
            if key not in ("method", "preset", "precision", "key_interval")
        }
        if weights is None:
            raise UserError("propose sam: no weights given; it needs those of SAM (sam_vit_h_4b8939.pth or another)")
        file = read_weights(weights)
        sam = build_sam(SamShape.of(file.tensors, path=weights))
        file.fill(sam)
        sam = sam.eval().to(resolve_device(device))
        encode_in(sam, working_dtype(settings.precision, sam.device, what="propose sam"))
        return cls(sam, **parameters)

    @torch.inference_mode()
    def propose(self, image: np.ndarray) -> RunLengths:
        """Returns the masks of `image` [H, W, 3] uint8 RGB, which may overlap.

        Raises:
            UserError: one point of it does not fit into the GPU's memory.
        """

        def generate(points: int) -> list[dict[str, Any]]:
            self._generator.points_per_batch = points
            return self._generator.generate(image)

        try:
            records = self._points_at_once.run(generate, self._points)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"propose sam: a {image.shape[1]}x{image.shape[0]} frame does not fit into the memory of {self.device};"
                " use weights of a smaller SAM"
            ) from error
        return RunLengths.from_coco(image.shape[:2], [record["segmentation"]["counts"] for record in records])


def encode_in(sam: Sam, dtype: torch.dtype) -> None:
    """Makes the image encoder run under autocast to a dtype; what it returns stays float32."""
    if dtype is torch.float32:
        return
    encode = sam.image_encoder.forward

    def forward(image: Tensor) -> Tensor:
        with torch.autocast(image.device.type, dtype):
            return encode(image).float()

    sam.image_encoder.forward = forward


@dataclass(frozen=True)
class SamShape:
    """What distinguishes one SAM from another: the sizes of its image encoder.

    Attributes:
        embed_dim: 768, 1024, 1280 for the released vit_b, vit_l, vit_h.
        depth, num_heads: of the transformer.
        global_attn_indexes: blocks without windows.
        grid: side of the token grid (64); the input side is grid * patch_size.
        patch_size: 16.
        window_size: 14.
        out_chans: channels of the image embedding (256).
    """

    embed_dim: int
    depth: int
    num_heads: int
    global_attn_indexes: tuple[int, ...]
    grid: int
    patch_size: int
    window_size: int
    out_chans: int

    @classmethod
    def of(cls, state: Mapping[str, Tensor], *, path: str) -> SamShape:
        """Reads the sizes off a state dict.

        Relative positions have 2 * side - 1 rows, which distinguishes windowed from global blocks, and one column per
        channel of a head, which gives the number of heads.

        Raises:
            UserError: the tensors that have these sizes are not there.
        """
        blocks = [name for name in state if re.fullmatch(r"image_encoder\.blocks\.\d+\.attn\.rel_pos_h", name)]
        required = ("image_encoder.pos_embed", "image_encoder.patch_embed.proj.weight", "image_encoder.neck.0.weight")
        if not blocks or any(name not in state for name in required):
            raise UserError(f"{path}: not weights of SAM: no {required[0]}, or no relative positions")
        position, patch, neck = (state[name].shape for name in required)
        depth, grid = len(blocks), int(position[1])
        relative = [state[f"image_encoder.blocks.{block}.attn.rel_pos_h"].shape for block in range(depth)]
        sides = [(int(rows) + 1) // 2 for rows, _ in relative]
        return cls(
            embed_dim=int(position[-1]),
            depth=depth,
            num_heads=int(position[-1]) // int(relative[0][1]),
            global_attn_indexes=tuple(block for block, side in enumerate(sides) if side == grid),
            grid=grid,
            patch_size=int(patch[-1]),
            window_size=min(sides) if min(sides) < grid else 0,
            out_chans=int(neck[0]),
        )


def build_sam(shape: SamShape) -> Sam:
    """Builds a SAM with random weights; everything but the image encoder is as released."""
    image_size = shape.grid * shape.patch_size
    return Sam(
        image_encoder=ImageEncoderViT(
            depth=shape.depth,
            embed_dim=shape.embed_dim,
            img_size=image_size,
            mlp_ratio=4,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=shape.num_heads,
            patch_size=shape.patch_size,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=shape.global_attn_indexes,
            window_size=shape.window_size,
            out_chans=shape.out_chans,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=shape.out_chans,
            image_embedding_size=(shape.grid, shape.grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=shape.out_chans, mlp_dim=2048, num_heads=8),
            transformer_dim=shape.out_chans,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
        pixel_mean=list(IMAGE_MEAN),
        pixel_std=list(IMAGE_STD),
    )
