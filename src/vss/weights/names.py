"""From the names of published files to the names in a `Segmentor`.

The rules do what the public converters do: mmdet 2 to mmdet 3 for Mask2Former, InternImage's classifier and Hugging
Face files, and `tools/model_converters` of MMSegmentation and MMPretrain for the official Swin and ConvNeXt files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

_Rules = tuple[tuple[str, str], ...]

_WRAPPERS: _Rules = (
    (r"^module\.", ""),  # DataParallel, DeepSpeed
    (r"^model\.", ""),  # Hugging Face's InternImage
    (r"\.layer_scale([12])$", r".gamma\1"),
)
_OFFICIAL_SWIN: _Rules = (
    (r"^(backbone\.)?layers\.", r"\1stages."),
    (r"\.attn\.", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    (r"^(backbone\.)?patch_embed\.proj\.", r"\1patch_embed.projection."),
)
_OFFICIAL_CONVNEXT: _Rules = (
    (r"\.dwconv\.", ".depthwise_conv."),
    (r"\.pwconv([12])\.", r".pointwise_conv\1."),
    (r"^norm\.", "norm3."),
)
_PREFIX: _Rules = ((r"^(patch_embed|levels|stages|downsample_layers|norm[0-3])\.", r"backbone.\1."),)
_ENCODER = r"^(decode_head\.pixel_decoder\.encoder\.layers\.\d+)"
_DECODER = r"^(decode_head\.transformer_decoder\.layers\.\d+)"
_MMDET_2: _Rules = (
    (_ENCODER + r"\.attentions\.0\.", r"\1.self_attn."),
    (_ENCODER + r"\.ffns\.0\.", r"\1.ffn."),
    (_DECODER + r"\.attentions\.0\.", r"\1.cross_attn."),
    (_DECODER + r"\.attentions\.1\.", r"\1.self_attn."),
    (_DECODER + r"\.ffns\.0\.", r"\1.ffn."),
)
_IS_OFFICIAL_SWIN = re.compile(r"(^|\.)layers\.0\.blocks\.0\.attn\.qkv\.weight$")
_IS_OFFICIAL_CONVNEXT = re.compile(r"(^|\.)stages\.0\.0\.dwconv\.weight$")

# Tensors of published files that a segmentor has no place for, and why.
_IGNORABLE = (
    (r"^(conv_head|dcnv3_head_x[34]|clip_projector|fc_norm)\.", "part of InternImage's classification head"),
    (r"^(backbone\.|cls_)?head\.", "classification head"),
    (r"^(backbone\.)?norm\.", "final norm of the classifier; the segmentor has its own norms"),
    (r"\.attn_mask$", "mask of shifted windows, recomputed"),
)


def todays_names(names: Iterable[str]) -> dict[str, str]:
    """Returns {name in the file: name in a `Segmentor`} for all names of one file.

    All are needed at once because the official Swin and ConvNeXt files share names with different meanings.
    """
    names = list(names)
    rules = (*_WRAPPERS, *_official(names), *_PREFIX, *_MMDET_2)
    return {name: _apply(rules, name) for name in names}


def is_official_swin(names: Iterable[str]) -> bool:
    """Returns whether a file has the names of the Swin authors' own files."""
    return any(_IS_OFFICIAL_SWIN.search(name) for name in names)


def is_official_convnext(names: Iterable[str]) -> bool:
    """Returns whether a file has the names of the ConvNeXt authors' own files."""
    return any(_IS_OFFICIAL_CONVNEXT.search(name) for name in names)


def why_ignorable(name: str) -> str | None:
    """Returns why a tensor of this name (as `todays_names` gives it) is left out, or None where that is unexpected."""
    return next((why for pattern, why in _IGNORABLE if re.search(pattern, name)), None)


def in_unfold_order(name: str, tensor: Tensor) -> Tensor:
    """Reorders the input channels of an official Swin file's patch merging; every other tensor is returned as it is.

    There the 2x2 neighbours (0,0), (1,0), (0,1), (1,1) follow each other, all channels of one before the next.
    MMSegmentation unfolds: channels outside, neighbours (0,0), (0,1), (1,0), (1,1) inside.

    Args:
        name: today's name.
        tensor: reduction weight [2C, 4C], norm weight or bias [4C].
    """
    if not re.search(r"\.downsample\.(reduction|norm)\.", name):
        return tensor
    blocks = tensor.reshape(*tensor.shape[:-1], 4, -1)[..., [0, 2, 1, 3], :]
    return blocks.transpose(-1, -2).reshape(tensor.shape)


def _official(names: list[str]) -> _Rules:
    if is_official_swin(names):
        return _OFFICIAL_SWIN
    return _OFFICIAL_CONVNEXT if is_official_convnext(names) else ()


def _apply(rules: _Rules, name: str) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
