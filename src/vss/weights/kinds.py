"""What a file of weights is, found from the current names and the shapes of its tensors alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vss.models.rows import BACKBONES, MASK2FORMER_SIZES, UPERNET_SIZES

_SAM_VARIANTS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
_FAMILIES = {"InternImage": "InternImage", "SwinTransformer": "Swin", "mmpretrain.ConvNeXt": "ConvNeXt"}


@dataclass(frozen=True)
class Kind:
    """What a file of weights, or a model, is.

    Attributes:
        family: "segmentor", "backbone" (a classifier's, say), "sam" or "cascadepsp".
        name: of the backbone: a key of `rows.BACKBONES` where the sizes are those of a row, else the sizes spelt out;
            of SAM: "vit_b", "vit_l", "vit_h" or its width.
        architecture: "InternImage", "Swin", "ConvNeXt"; "" for SAM and CascadePSP.
        head: "UperNet", "Mask2Former" or "" (backbone only).
        head_size: key of `rows.UPERNET_SIZES` or `rows.MASK2FORMER_SIZES`, or None.
        num_classes: of the head, or None.
        width, queries: channels of the head and number of queries (Mask2Former), or None.
        naming: whose names the tensors have in the file, in words; "" where they are our own.
    """

    family: str
    name: str
    architecture: str = ""
    head: str = ""
    head_size: str | None = None
    num_classes: int | None = None
    width: int | None = None
    queries: int | None = None
    naming: str = ""

    def __str__(self) -> str:
        if self.family == "cascadepsp":
            text = "CascadePSP"
        elif self.family == "sam":
            text = f"Segment Anything {self.name}"
        elif self.family == "backbone":
            text = f"backbone weights of {self.backbone_title}"
        else:
            text = f"{self.head} {self.backbone_title}, {self.num_classes} classes"
            text += f", {self.width}-d, {self.queries} queries" if self.queries else ""
        return f"{text} ({self.naming})" if self.naming else text

    @property
    def is_refiner(self) -> bool:
        """Returns whether these are weights of the refine stage, under the names of their packages."""
        return self.family in ("sam", "cascadepsp")

    @property
    def backbone_title(self) -> str:
        """Returns the backbone's usual name, such as "InternImage-H"."""
        size = self.name.partition("-")[2] if self.name in BACKBONES else self.name
        return f"{self.architecture}-{size.upper() if len(size) <= 2 else size}"


def kind_of(tensors: Mapping[str, Tensor], *, naming: str = "") -> Kind | None:
    """Returns what tensors under their current names are, a file's or a model's; None where nothing is recognised.

    Args:
        tensors: {current name: tensor}, as `names.to_current_names` gives them.
        naming: whose names the file has, see `names.naming`.
    """
    if "image_encoder.pos_embed" in tensors:
        width = tensors["image_encoder.pos_embed"].shape[-1]
        return Kind("sam", _SAM_VARIANTS.get(width, f"of width {width}"))
    if "psp.stages.0.1.weight" in tensors and "feats.conv1.weight" in tensors:
        return Kind("cascadepsp", "cascadepsp")
    backbone = _backbone(tensors)
    if backbone is None:
        return None
    architecture, name = backbone
    if "decode_head.query_feat.weight" in tensors:
        queries, width = tensors["decode_head.query_feat.weight"].shape
        classes = tensors["decode_head.cls_embed.weight"].shape[0] - 1
        size = _size(MASK2FORMER_SIZES, feat_channels=width, num_queries=queries)
        return Kind("segmentor", name, architecture, "Mask2Former", size, classes, width, queries, naming)
    if "decode_head.fpn_bottleneck.conv.weight" in tensors:
        classes, width = tensors["decode_head.conv_seg.weight"].shape[:2]
        size = _size(UPERNET_SIZES, channels=width)
        return Kind("segmentor", name, architecture, "UperNet", size, classes, width, None, naming)
    return Kind("backbone", name, architecture, naming=naming)


def _size(table: Mapping[str, Mapping[str, int]], **numbers: int) -> str | None:
    return next((key for key, row in table.items() if all(row[name] == n for name, n in numbers.items())), None)


def _backbone(tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Returns architecture and name of the backbone in tensors with current names."""
    facts = _intern_image(tensors) or _swin(tensors) or _convnext(tensors)
    if facts is None:
        return None
    for name, row in BACKBONES.items():
        if _row_facts(row) == facts:
            return facts[0], name
    architecture, channels, depths, *groups = facts
    text = f"{channels} channels, depths {'-'.join(map(str, depths))}"
    return architecture, text + (f", {groups[0]} groups" if groups else "")


def _row_facts(row: Mapping) -> tuple:
    if row["type"] == "InternImage":
        return "InternImage", row["channels"], tuple(row["depths"]), row["groups"][0]
    if row["type"] == "SwinTransformer":
        return "Swin", row["embed_dims"], tuple(row["depths"])
    return "ConvNeXt", row["arch"]["channels"][0], tuple(row["arch"]["depths"])


def _intern_image(tensors: Mapping[str, Tensor]) -> tuple | None:
    stem, mask = "backbone.patch_embed.conv2.weight", "backbone.levels.0.blocks.0.dcn.mask.weight"
    if stem not in tensors or mask not in tensors:
        return None
    depths = _depths(tensors, r"backbone\.levels\.(\d+)\.blocks\.(\d+)\.")
    return "InternImage", tensors[stem].shape[0], depths, tensors[mask].shape[0] // 9  # 3x3 points per group


def _swin(tensors: Mapping[str, Tensor]) -> tuple | None:
    stem = "backbone.patch_embed.projection.weight"
    if stem not in tensors or "backbone.stages.0.blocks.0.attn.w_msa.qkv.weight" not in tensors:
        return None
    return "Swin", tensors[stem].shape[0], _depths(tensors, r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.")


def _convnext(tensors: Mapping[str, Tensor]) -> tuple | None:
    stem = "backbone.downsample_layers.0.0.weight"
    if stem not in tensors or "backbone.stages.0.0.depthwise_conv.weight" not in tensors:
        return None
    return "ConvNeXt", tensors[stem].shape[0], _depths(tensors, r"backbone\.stages\.(\d+)\.(\d+)\.")


def _depths(tensors: Mapping[str, Tensor], pattern: str) -> tuple[int, ...]:
    """Returns the number of blocks of every stage."""
    blocks: dict[int, int] = {}
    for name in tensors:
        if found := re.match(pattern, name):
            stage, block = int(found[1]), int(found[2])
            blocks[stage] = max(blocks.get(stage, 0), block + 1)
    return tuple(blocks.get(stage, 0) for stage in range(len(blocks)))
