"""What a file of weights is, found from the names and shapes of its tensors alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vss.models.rows import BACKBONES, MASK2FORMER_SIZES, UPERNET_SIZES
from vss.weights.names import is_official_convnext, is_official_swin, todays_names

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
        names: whose names the tensors have, in words; "" where they are today's.
    """

    family: str
    name: str
    architecture: str = ""
    head: str = ""
    head_size: str | None = None
    num_classes: int | None = None
    width: int | None = None
    queries: int | None = None
    names: str = ""

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
        return f"{text} ({self.names})" if self.names else text

    @property
    def backbone_title(self) -> str:
        """Returns the backbone's usual name, such as "InternImage-H"."""
        size = self.name.partition("-")[2] if self.name in BACKBONES else self.name
        return f"{self.architecture}-{size.upper() if len(size) <= 2 else size}"


def kind_of(tensors: Mapping[str, Tensor]) -> Kind | None:
    """Returns what a file's tensors (or a model's state dict) are, or None where nothing is recognised."""
    plain = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if "image_encoder.pos_embed" in plain:
        width = plain["image_encoder.pos_embed"].shape[-1]
        return Kind("sam", _SAM_VARIANTS.get(width, f"of width {width}"))
    if "psp.stages.0.1.weight" in plain and "feats.conv1.weight" in plain:
        return Kind("cascadepsp", "cascadepsp")
    today = {new: tensors[old] for old, new in todays_names(tensors).items()}
    backbone = _backbone(today)
    if backbone is None:
        return None
    architecture, name = backbone
    naming = _naming(tensors)
    if "decode_head.query_feat.weight" in today:
        queries, width = today["decode_head.query_feat.weight"].shape
        classes = today["decode_head.cls_embed.weight"].shape[0] - 1
        size = _size(MASK2FORMER_SIZES, feat_channels=width, num_queries=queries)
        return Kind("segmentor", name, architecture, "Mask2Former", size, classes, width, queries, naming)
    if "decode_head.fpn_bottleneck.conv.weight" in today:
        classes, width = today["decode_head.conv_seg.weight"].shape[:2]
        size = _size(UPERNET_SIZES, channels=width)
        return Kind("segmentor", name, architecture, "UperNet", size, classes, width, None, naming)
    return Kind("backbone", name, architecture, names=naming)


def _naming(tensors: Mapping[str, Tensor]) -> str:
    """Returns whose names these are, in words, or "" for today's."""
    if any(".attentions.0." in name and name.removeprefix("module.").startswith("decode_head.") for name in tensors):
        return "names of mmdet 2"
    if is_official_swin(tensors):
        return "names of the Swin authors"
    if is_official_convnext(tensors):
        return "names of the ConvNeXt authors"
    if any(re.match(r"model\.(patch_embed|levels)\.", name) for name in tensors):
        return "Hugging Face names"
    return "" if any(re.match(r"(module\.)?backbone\.", name) for name in tensors) else "no prefix backbone."


def _size(table: Mapping[str, Mapping[str, int]], **numbers: int) -> str | None:
    return next((key for key, row in table.items() if all(row[name] == n for name, n in numbers.items())), None)


def _backbone(today: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Returns architecture and name of the backbone in tensors with today's names."""
    facts = _intern_image(today) or _swin(today) or _convnext(today)
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


def _intern_image(today: Mapping[str, Tensor]) -> tuple | None:
    stem, mask = "backbone.patch_embed.conv2.weight", "backbone.levels.0.blocks.0.dcn.mask.weight"
    if stem not in today or mask not in today:
        return None
    depths = _depths(today, r"backbone\.levels\.(\d+)\.blocks\.(\d+)\.")
    return "InternImage", today[stem].shape[0], depths, today[mask].shape[0] // 9  # 3x3 points a group


def _swin(today: Mapping[str, Tensor]) -> tuple | None:
    stem = "backbone.patch_embed.projection.weight"
    if stem not in today or "backbone.stages.0.blocks.0.attn.w_msa.qkv.weight" not in today:
        return None
    return "Swin", today[stem].shape[0], _depths(today, r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.")


def _convnext(today: Mapping[str, Tensor]) -> tuple | None:
    stem = "backbone.downsample_layers.0.0.weight"
    if stem not in today or "backbone.stages.0.0.depthwise_conv.weight" not in today:
        return None
    return "ConvNeXt", today[stem].shape[0], _depths(today, r"backbone\.stages\.(\d+)\.(\d+)\.")


def _depths(today: Mapping[str, Tensor], pattern: str) -> tuple[int, ...]:
    """Returns the number of blocks of every stage."""
    blocks: dict[int, int] = {}
    for name in today:
        if found := re.match(pattern, name):
            stage, block = int(found[1]), int(found[2])
            blocks[stage] = max(blocks.get(stage, 0), block + 1)
    return tuple(blocks.get(stage, 0) for stage in range(len(blocks)))
