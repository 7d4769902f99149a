"""What a file of weights is, found from the current names and the shapes of its tensors alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vss.models.rows import BACKBONES, EOMT_SIZES, MASK2FORMER_SIZES, PLAIN_MASK_SIZES, UPERNET_SIZES, VIT_ENCODERS

_SAM_VARIANTS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
_FAMILIES = {"InternImage": "InternImage", "SwinTransformer": "Swin", "mmpretrain.ConvNeXt": "ConvNeXt"}


@dataclass(frozen=True)
class Kind:
    """What a file of weights, or a model, is.

    Attributes:
        family: "segmentor", "backbone" (such as a classifier's), "sam" or "cascadepsp".
        name: of the backbone: a key of `rows.BACKBONES` or `rows.VIT_ENCODERS` where the sizes are those of a row, else
            the sizes spelt out;
            of SAM: "vit_b", "vit_l", "vit_h" or its width.
        architecture: "InternImage", "Swin", "ConvNeXt", "DINOv2", "DINOv3"; "" for SAM and CascadePSP.
        head: "UperNet", "Mask2Former", "EoMT", "PMT" (on a frozen encoder) or "" (backbone only).
        head_size: key of the head's table of sizes in `rows`, or None.
        num_classes: of the head, or None.
        width, queries: channels of the head and number of queries (all but UperNet), or None.
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
        size = self.name.partition("-")[2] if self.name in {*BACKBONES, *VIT_ENCODERS} else self.name
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
    if "decode_head.query.weight" in tensors:
        queries, width = tensors["decode_head.query.weight"].shape
        classes = tensors["decode_head.class_predictor.weight"].shape[0] - 1
        on_frozen = "decode_head.projections.0.0.weight" in tensors
        size = _size(PLAIN_MASK_SIZES if on_frozen else EOMT_SIZES, num_queries=queries)
        head = "PMT" if on_frozen else "EoMT"
        return Kind("segmentor", name, architecture, head, size, classes, width, queries, naming)
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
    facts = _intern_image(tensors) or _swin(tensors) or _convnext(tensors) or _vit(tensors)
    if facts is None:
        return None
    for name, row in {**BACKBONES, **VIT_ENCODERS}.items():
        if _row_facts(row) == facts:
            return facts[0], name
    architecture, channels, depths, *groups = facts
    text = f"{channels} channels, depths {'-'.join(map(str, depths))}"
    return architecture, text + (f", {groups[0]} groups" if groups else "")


def _row_facts(row: Mapping) -> tuple:
    if "architecture" in row:
        return row["architecture"].replace("dino", "DINO"), row["hidden_size"], (row["num_layers"],)
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


def _vit(tensors: Mapping[str, Tensor]) -> tuple | None:
    token = "backbone.embeddings.cls_token"
    if token not in tensors:
        return None
    layers = _depths(tensors, r"backbone\.(layers)\.(\d+)\.")[0]
    if "decode_head.query.weight" in tensors and "decode_head.projections.0.0.weight" not in tensors:
        layers += _depths(tensors, r"decode_head\.(layers)\.(\d+)\.")[0]  # a published EoMT has them in one list
    is_dinov2 = any(name.startswith("backbone.embeddings.position_embeddings") for name in tensors)
    return "DINOv2" if is_dinov2 else "DINOv3", tensors[token].shape[-1], (layers,)


def _depths(tensors: Mapping[str, Tensor], pattern: str) -> tuple[int, ...]:
    """Returns the number of blocks of every stage; the pattern's groups are the stage and the block."""
    blocks: dict[str, int] = {}
    for name in tensors:
        if found := re.match(pattern, name):
            blocks[found[1]] = max(blocks.get(found[1], 0), int(found[2]) + 1)
    return tuple(blocks[stage] for stage in sorted(blocks, key=lambda stage: (len(stage), stage))) or (0,)
