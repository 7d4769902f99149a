"""The single place of the models' numbers: one row for every family member, and the head sizes.

Everything here is plain dictionaries in MMEngine's config form; torch is not imported. Sources of the numbers: the
configs of MMSegmentation (Swin, ConvNeXt), of OpenGVLab/InternImage `segmentation/configs/ade20k` @31c962d
(InternImage, Mask2Former 1024-d) and of the paper's repository (Mask2Former 256-d). The "nano" rows are this project's
own: members of the same families that train in under a minute on one CPU core.
"""

from __future__ import annotations

import copy
from typing import Any

from vss.core.errors import UserError

Config = dict[str, Any]

IMAGE_MEAN = (123.675, 116.28, 103.53)  # RGB, 0..255 (ImageNet)
IMAGE_STD = (58.395, 57.12, 57.375)


def _swin(*, embed_dims: int, depths: list[int], heads: list[int], window: int, pretrain: int, drop: float) -> Config:
    return dict(
        type="SwinTransformer",
        pretrain_img_size=pretrain,
        embed_dims=embed_dims,
        depths=depths,
        num_heads=heads,
        window_size=window,
        drop_path_rate=drop,
        patch_norm=True,
        use_abs_pos_embed=False,
        out_indices=(0, 1, 2, 3),
    )


def _convnext(*, depths: list[int], channels: list[int], drop: float) -> Config:
    return dict(
        type="mmpretrain.ConvNeXt",
        arch=dict(depths=depths, channels=channels),
        drop_path_rate=drop,
        layer_scale_init_value=1.0,
        gap_before_final_norm=False,
        out_indices=[0, 1, 2, 3],
    )


def _intern_image(*, channels: int, depths: list[int], groups: list[int], drop: float, **numbers: Any) -> Config:
    return dict(
        type="InternImage",
        channels=channels,
        depths=depths,
        groups=groups,
        mlp_ratio=4.0,
        drop_path_rate=drop,
        **numbers,
        out_indices=(0, 1, 2, 3),
    )


# What InternImage-H has and the smaller members have not; G differs in where its norms stand.
_H_STYLE = dict(
    layer_scale=None, offset_scale=1.0, post_norm=False, dw_kernel_size=5, res_post_norm=True, center_feature_scale=True
)
_G_STYLE = _H_STYLE | dict(post_norm=True, res_post_norm=False)
_XL_STYLE = dict(layer_scale=1.0, offset_scale=2.0, post_norm=True)
_S_STYLE = _XL_STYLE | dict(offset_scale=1.0)


def _post_norms(*block_ids: int) -> Config:
    return dict(level2_post_norm=True, level2_post_norm_block_ids=list(block_ids))


_HEADS_96, _HEADS_128, _HEADS_192 = [3, 6, 12, 24], [4, 8, 16, 32], [6, 12, 24, 48]

BACKBONES: dict[str, Config] = {
    "swin-t": _swin(embed_dims=96, depths=[2, 2, 6, 2], heads=_HEADS_96, window=7, pretrain=224, drop=0.3),
    "swin-s": _swin(embed_dims=96, depths=[2, 2, 18, 2], heads=_HEADS_96, window=7, pretrain=224, drop=0.3),
    "swin-b": _swin(embed_dims=128, depths=[2, 2, 18, 2], heads=_HEADS_128, window=12, pretrain=384, drop=0.3),
    "swin-l": _swin(embed_dims=192, depths=[2, 2, 18, 2], heads=_HEADS_192, window=12, pretrain=384, drop=0.3),
    "swin-nano": _swin(embed_dims=32, depths=[2, 2, 2, 2], heads=[1, 2, 4, 8], window=4, pretrain=96, drop=0.0),
    "convnext-t": _convnext(depths=[3, 3, 9, 3], channels=[96, 192, 384, 768], drop=0.4),
    "convnext-s": _convnext(depths=[3, 3, 27, 3], channels=[96, 192, 384, 768], drop=0.3),
    "convnext-b": _convnext(depths=[3, 3, 27, 3], channels=[128, 256, 512, 1024], drop=0.4),
    "convnext-l": _convnext(depths=[3, 3, 27, 3], channels=[192, 384, 768, 1536], drop=0.4),
    "convnext-xl": _convnext(depths=[3, 3, 27, 3], channels=[256, 512, 1024, 2048], drop=0.4),
    "convnext-nano": _convnext(depths=[2, 2, 2, 2], channels=[32, 64, 128, 256], drop=0.0),
    "internimage-t": _intern_image(
        channels=64, depths=[4, 4, 18, 4], groups=[4, 8, 16, 32], drop=0.2, layer_scale=1.0, offset_scale=1.0
    ),
    "internimage-s": _intern_image(channels=80, depths=[4, 4, 21, 4], groups=[5, 10, 20, 40], drop=0.3, **_S_STYLE),
    "internimage-b": _intern_image(channels=112, depths=[4, 4, 21, 4], groups=[7, 14, 28, 56], drop=0.4, **_S_STYLE),
    "internimage-l": _intern_image(channels=160, depths=[5, 5, 22, 5], groups=[10, 20, 40, 80], drop=0.4, **_XL_STYLE),
    "internimage-xl": _intern_image(channels=192, depths=[5, 5, 24, 5], groups=[12, 24, 48, 96], drop=0.4, **_XL_STYLE),
    "internimage-h": _intern_image(
        channels=320,
        depths=[6, 6, 32, 6],
        groups=[10, 20, 40, 80],
        drop=0.5,
        **_H_STYLE,
        **_post_norms(5, 11, 17, 23, 29),
    ),
    "internimage-g": _intern_image(
        channels=512,
        depths=[2, 2, 48, 4],
        groups=[16, 32, 64, 128],
        drop=0.5,
        **_G_STYLE,
        **_post_norms(5, 11, 17, 23, 29, 35, 41, 47),
    ),
    "internimage-nano-xl": _intern_image(channels=32, depths=[1, 1, 2, 1], groups=[2, 4, 8, 16], drop=0.0, **_XL_STYLE),
    "internimage-nano-h": _intern_image(
        channels=32, depths=[1, 1, 2, 1], groups=[1, 2, 4, 8], drop=0.0, **_H_STYLE, **_post_norms(1)
    ),
}


def _vit(architecture: str, *, width: int, layers: int, heads: int, patch: int, registers: int) -> Config:
    return dict(
        architecture=architecture,
        hidden_size=width,
        num_layers=layers,
        num_heads=heads,
        patch_size=patch,
        num_register_tokens=registers,
    )


# Vision transformers: DINOv2 (arXiv 2304.07193; without registers, as its published files) and DINOv3 (2508.10104).
VIT_ENCODERS: dict[str, Config] = {
    "dinov2-s": _vit("dinov2", width=384, layers=12, heads=6, patch=14, registers=0),
    "dinov2-b": _vit("dinov2", width=768, layers=12, heads=12, patch=14, registers=0),
    "dinov2-l": _vit("dinov2", width=1024, layers=24, heads=16, patch=14, registers=0),
    "dinov2-nano": _vit("dinov2", width=48, layers=6, heads=3, patch=14, registers=0),
    "dinov3-s": _vit("dinov3", width=384, layers=12, heads=6, patch=16, registers=4),
    "dinov3-b": _vit("dinov3", width=768, layers=12, heads=12, patch=16, registers=4),
    "dinov3-l": _vit("dinov3", width=1024, layers=24, heads=16, patch=16, registers=4),
    "dinov3-nano": _vit("dinov3", width=64, layers=6, heads=4, patch=16, registers=4),
}

# Queries and the layers that they are in; "large" are tue-mps's numbers for semantic segmentation.
EOMT_SIZES: dict[str, Config] = {
    "large": dict(num_queries=100, num_layers=4, num_points=12544),
    "nano": dict(num_queries=24, num_layers=2, num_points=1024),
}
# The same of the decoder on a frozen encoder, and how wide its feed-forward networks are.
PLAIN_MASK_SIZES: dict[str, Config] = {
    "large": dict(num_queries=100, num_layers=6, num_points=12544, intermediate_size=1024),
    "nano": dict(num_queries=24, num_layers=2, num_points=1024, intermediate_size=128),
}

UPERNET_SIZES: dict[str, Config] = {
    "full": dict(channels=512, auxiliary_channels=256),
    "nano": dict(channels=64, auxiliary_channels=32),
}

# feat_channels, heads and so on of the head; "authors" is the paper's repository, "opengvlab" the 2023 release.
MASK2FORMER_SIZES: dict[str, Config] = {
    "authors": dict(
        feat_channels=256,
        num_queries=100,
        num_heads=8,
        encoder_layers=6,
        encoder_ffn_channels=1024,
        decoder_layers=9,
        decoder_ffn_channels=2048,
        num_points=12544,
    ),
    "opengvlab": dict(
        feat_channels=1024,
        num_queries=200,
        num_heads=32,
        encoder_layers=6,
        encoder_ffn_channels=4096,
        decoder_layers=9,
        decoder_ffn_channels=4096,
        num_points=12544,
    ),
    "nano": dict(
        feat_channels=64,
        num_queries=24,
        num_heads=4,
        encoder_layers=1,
        encoder_ffn_channels=128,
        decoder_layers=3,
        decoder_ffn_channels=128,
        num_points=1024,
    ),
}


def _row(table: dict[str, Config], name: str, what: str) -> Config:
    if name not in table:
        raise UserError(f"{what} {name!r} is unknown; known are {', '.join(table)}")
    return copy.deepcopy(table[name])


def backbone_config(name: str, **overrides: Any) -> Config:
    """Returns the MMEngine config of a backbone row; `overrides` replace constructor arguments.

    Raises:
        UserError: there is no such row.
    """
    return _row(BACKBONES, name, "backbone") | overrides


def backbone_channels(name: str) -> list[int]:
    """Returns the channels of a row's four feature maps (strides 4, 8, 16, 32)."""
    config = _row(BACKBONES, name, "backbone")
    if "arch" in config:
        return list(config["arch"]["channels"])
    return [config.get("embed_dims", config.get("channels")) * 2**i for i in range(4)]


def ohem_sampler(*, thresh: float, min_kept: int) -> Config:
    """Returns MMSegmentation's online hard example mining: pixels whose true class has a probability below `thresh`.

    `min_kept` pixels per image are always kept.
    """
    return dict(type="OHEMPixelSampler", thresh=thresh, min_kept=min_kept)


def upernet_config(
    backbone: str,
    *,
    num_classes: int,
    size: str = "full",
    norm: str = "SyncBN",
    ohem: Config | None = None,
    auxiliary_ohem: Config | None = None,
    auxiliary_weight: float = 0.4,
) -> Config:
    """Returns {decode_head, auxiliary_head}: UPerHead on all four features and FCNHead on the third.

    Args:
        backbone: row whose channels the heads take.
        num_classes: number of train ids.
        size: key of `UPERNET_SIZES`.
        norm: "SyncBN" (plain BN outside distributed training, see `build_segmentor`), "BN" or another MMEngine norm.
        ohem: `ohem_sampler(...)` of the decode head; XL uses one for the auxiliary head as well.
        auxiliary_ohem: the same for the auxiliary head.
        auxiliary_weight: of the auxiliary loss.

    The cross entropy divides by all pixels, ignored ones too (`avg_non_ignore` False), as the published models did.
    """
    channels, numbers = backbone_channels(backbone), _row(UPERNET_SIZES, size, "UperNet size")
    common = dict(
        dropout_ratio=0.1,
        num_classes=num_classes,
        norm_cfg=dict(type=norm, requires_grad=True),
        align_corners=False,
    )
    decode_head = dict(
        type="UPerHead",
        in_channels=channels,
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=numbers["channels"],
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0, avg_non_ignore=False),
        **({"sampler": ohem} if ohem else {}),
        **common,
    )
    auxiliary_head = dict(
        type="FCNHead",
        in_channels=channels[2],
        in_index=2,
        channels=numbers["auxiliary_channels"],
        num_convs=1,
        concat_input=False,
        loss_decode=dict(
            type="CrossEntropyLoss", use_sigmoid=False, loss_weight=auxiliary_weight, avg_non_ignore=False
        ),
        **({"sampler": auxiliary_ohem} if auxiliary_ohem else {}),
        **copy.deepcopy(common),
    )
    return dict(decode_head=decode_head, auxiliary_head=auxiliary_head)


def mask2former_config(
    backbone: str, *, num_classes: int, size: str = "authors", with_cp: bool = False, **overrides: Any
) -> Config:
    """Returns {decode_head}: our Mask2Former head on all four features.

    Args:
        backbone: row whose channels the head takes.
        num_classes: number of train ids; the head has one more output for "no object".
        size: key of `MASK2FORMER_SIZES`.
        with_cp: gradient checkpointing of every encoder and decoder layer.
        overrides: constructor arguments of the head.
    """
    numbers = _row(MASK2FORMER_SIZES, size, "Mask2Former size")
    head = dict(
        type="Mask2FormerHead",
        in_channels=backbone_channels(backbone),
        num_classes=num_classes,
        **numbers,
        with_cp=with_cp,
    )
    return dict(decode_head=head | overrides)


def eomt_config(encoder: str, *, num_classes: int, size: str = "large", **overrides: Any) -> Config:
    """Returns {backbone, decode_head} of an EoMT: a vision transformer whose last layers hold the queries.

    Patches have 16 pixels whatever the encoder's own are, and there are four registers, as in EoMT's published models.

    Args:
        encoder: key of `VIT_ENCODERS`.
        num_classes: number of train ids.
        size: key of `EOMT_SIZES`.
        overrides: constructor arguments of the head.
    """
    vit = _row(VIT_ENCODERS, encoder, "encoder") | dict(patch_size=16, num_register_tokens=4)
    head = _row(EOMT_SIZES, size, "EoMT size") | overrides
    shared = {key: vit[key] for key in ("architecture", "hidden_size", "num_heads", "patch_size")}
    backbone = dict(type="EomtEncoder", **vit | dict(num_layers=vit["num_layers"] - head["num_layers"]))
    return dict(
        backbone=backbone,
        decode_head=dict(type="EomtHead", num_classes=num_classes, **shared, **head, with_cp=False),
    )


def plain_mask_config(
    encoder: str, *, num_classes: int, size: str = "large", norm: str | None = "SyncBN", **overrides: Any
) -> Config:
    """Returns {backbone, decode_head}: a frozen encoder, four layers of which a light decoder with queries reads.

    Args:
        encoder: key of `VIT_ENCODERS`.
        num_classes: number of train ids.
        size: key of `PLAIN_MASK_SIZES`.
        norm: MMEngine norm of every layer that is read; None = none.
        overrides: constructor arguments of the head.
    """
    vit, head = _row(VIT_ENCODERS, encoder, "encoder"), _row(PLAIN_MASK_SIZES, size, "decoder size")
    layers = vit["num_layers"]
    out_layers = [layers * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
    shared = {key: vit[key] for key in ("hidden_size", "num_heads", "patch_size")}
    decode_head = dict(
        type="PlainMaskHead",
        num_classes=num_classes,
        num_inputs=len(out_layers),
        norm_cfg=None if norm is None else dict(type=norm, requires_grad=True),
        **shared,
        **head,
        with_cp=False,
    )
    return dict(backbone=dict(type="FrozenEncoder", **vit, out_layers=out_layers), decode_head=decode_head | overrides)


def timm_config(name: str, *, num_classes: int) -> Config:
    """Returns {backbone, decode_head, auxiliary_head}: a backbone of timm under UperNet.

    The heads' `in_channels` are None, which `vss.models.build` fills in: only timm knows them.
    """
    heads = upernet_config("swin-l", num_classes=num_classes)
    for head in heads.values():
        head["in_channels"] = None
    return dict(backbone=dict(type="TimmBackbone", name=name), **heads)


def data_preprocessor_config(*, crop_size: tuple[int, int] | None = None) -> Config:
    """Returns the training preprocessor: BGR uint8 -> normalised RGB, padded to `crop_size` (h, w); labels by 255."""
    return dict(
        type="SegDataPreProcessor",
        mean=list(IMAGE_MEAN),
        std=list(IMAGE_STD),
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        **({"size": tuple(crop_size)} if crop_size else {"size_divisor": 32}),
    )


def segmentor_config(
    backbone: str | None,
    heads: Config,
    *,
    crop_size: tuple[int, int] | None = None,
    protocol: str = "paper",
    **backbone_overrides: Any,
) -> Config:
    """Returns the whole `model` entry of a config.

    Args:
        backbone: row name; None where `heads` hold the backbone as well.
        heads: what `upernet_config`, `mask2former_config` and so on returned.
        crop_size: (h, w) of training crops.
        protocol: how class scores become probabilities in `predict`, see `Segmentor.probabilities`.
        backbone_overrides: constructor arguments of the backbone, such as `with_cp` or `drop_path_rate`.
    """
    return dict(
        type="Segmentor",
        data_preprocessor=data_preprocessor_config(crop_size=crop_size),
        **({} if backbone is None else {"backbone": backbone_config(backbone, **backbone_overrides)}),
        **heads,
        train_cfg=dict(),
        test_cfg=dict(mode="whole", protocol=protocol),
    )
