"""The modules that a config may name: the gate between a config that came with weights and MMEngine's registry.

MMEngine's registry imports whatever dotted name stands under `type` and calls it with the entries next to it, so a
config from elsewhere could run any function. Listed are this project's modules and those of MMSegmentation and MMCV
that compute and nothing else; those that read files or take code from other packages (MMSegmentation's `TIMMBackbone`,
`VPD`, `CLIPTextEncoder`, initialisation from a checkpoint) are not. Torch is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from vss.core.errors import UserError, did_you_mean

NetworkConfig: TypeAlias = Mapping[str, Any]
"""An MMEngine config of a network or another part: `type` and the arguments of its constructor."""

MODEL_TYPES = frozenset(
    (
        # Whole models, preprocessing, sampling of pixels.
        *("Segmentor", "SegDataPreProcessor", "OHEMPixelSampler"),
        # Backbones.
        *("InternImage", "SwinTransformer", "mmpretrain.ConvNeXt", "BEiT", "HRNet", "MixVisionTransformer", "MSCAN"),
        *("EomtEncoder", "FrozenEncoder", "TimmBackbone"),
        *("PCPVT", "ResNeSt", "ResNeXt", "ResNet", "ResNetV1c", "ResNetV1d", "SVT", "UNet", "VisionTransformer"),
        # Necks.
        *("FPN", "Feature2Pyramid", "JPU", "MLANeck", "MultiLevelNeck"),
        # Heads.
        *("Mask2FormerHead", "EomtHead", "PlainMaskHead"),
        *("UPerHead", "FCNHead", "ANNHead", "APCHead", "ASPPHead", "CCHead", "DAHead", "DMHead"),
        *("DNLHead", "DPTHead", "DepthwiseSeparableASPPHead", "DepthwiseSeparableFCNHead", "EMAHead", "EncHead"),
        *("FPNHead", "GCHead", "ISAHead", "LRASPPHead", "LightHamHead", "NLHead", "PSAHead", "PSPHead"),
        *("SETRMLAHead", "SETRUPHead", "SegformerHead", "SegmenterMaskTransformerHead"),
        # Losses.
        *("CrossEntropyLoss", "DiceLoss", "FocalLoss", "LovaszLoss", "OhemCrossEntropy", "TverskyLoss"),
        # Norms, activations, convolutions, drops.
        *("BN", "BN1d", "BN2d", "GN", "IN", "IN2d", "LN", "SyncBN"),
        *("ELU", "GELU", "HSigmoid", "HSwish", "LeakyReLU", "PReLU", "ReLU", "ReLU6", "Sigmoid", "SiLU", "Swish"),
        *("Conv", "Conv1d", "Conv2d", "ConvAWS", "ConvWS", "DropPath", "Dropout", "Tanh"),
        *("FFN", "MultiheadAttention", "bilinear", "deconv", "nearest", "pixel_shuffle"),
    )
)
# What makes a module read a file by itself, or the registry change to another package's.
_REFUSED_KEYS = {
    "init_cfg": "weights are loaded by `init` or `weights` only",
    "pretrained": "weights are loaded by `init` or `weights` only",
    "_scope_": "modules are looked up in MMSegmentation's registry only",
}
# MMSegmentation reads a file of class weights, a pickle too, where text stands in place of numbers.
_NUMBERS_ONLY = "class_weight"
_DEEPEST = 20  # levels; the deepest row has 6


def check_types(model: Any, *, where: str) -> None:
    """Refuses a model config that names anything but the modules of `MODEL_TYPES`, at any depth.

    Args:
        model: the `model` entry of a config, or any part of it.
        where: what messages start with: the file or row, and the key.

    Raises:
        UserError: a `type` that is not text or not listed, a key that would read files, or too deep a nesting.
    """
    pending: list[tuple[str, int, Any]] = [(where, 0, model)]
    while pending:
        place, depth, value = pending.pop()
        if depth > _DEEPEST:
            raise UserError(f"{where}: nested more than {_DEEPEST} levels deep, which no model config is")
        if isinstance(value, Mapping):
            _check_map(place, value)
            pending += [(f"{place}.{key}", depth + 1, item) for key, item in value.items()]
        elif isinstance(value, (list, tuple)):
            pending += [(f"{place}.{position}", depth + 1, item) for position, item in enumerate(value)]


def _check_map(place: str, value: NetworkConfig) -> None:
    if "type" in value:
        named = value["type"]
        if not isinstance(named, str) or named not in MODEL_TYPES:
            near = did_you_mean(named, MODEL_TYPES) if isinstance(named, str) else ""
            raise UserError(f"{place}.type: found {_shown(named)}, which is no module that a config may name{near}")
    for key, why in _REFUSED_KEYS.items():
        if value.get(key) is not None:
            raise UserError(f"{place}.{key}: found {_shown(value[key])}, must be left out; {why}")
    if isinstance(value.get(_NUMBERS_ONLY), str):
        raise UserError(f"{place}.{_NUMBERS_ONLY}: found {_shown(value[_NUMBERS_ONLY])}, must be a list of numbers")


def _shown(value: Any) -> str:
    """Returns a value of someone else's file, short and without control characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
