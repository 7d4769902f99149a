"""From the names of tensors in published files to their names in our models.

The rules do what the public converters do: mmdet 2 to mmdet 3 for Mask2Former, InternImage's classifier and Hugging
Face files, and `tools/model_converters` of MMSegmentation and MMPretrain for the official Swin and ConvNeXt files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

from vss.weights.vit import is_vit, vit_names

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
# Whose names a file has: the first pattern that one of its names shows.
_NAMINGS = (
    (re.compile(r"^(module\.)?decode_head\..*\.attentions\.0\."), "names of mmdet 2"),
    (_IS_OFFICIAL_SWIN, "names of the Swin authors"),
    (_IS_OFFICIAL_CONVNEXT, "names of the ConvNeXt authors"),
    (re.compile(r"^model\.(patch_embed|levels)\."), "Hugging Face names"),
    (re.compile(r"(^|\.)embeddings\.cls_token$"), "names of transformers"),
    (re.compile(r"^(module\.)?backbone\."), ""),
)

# Tensors that a segmentor may have no place for, and why.
_IGNORABLE = (
    (r"^(conv_head|dcnv3_head_x[34]|clip_projector|fc_norm)\.", "part of InternImage's classification head"),
    (r"^(backbone\.|cls_)?head\.", "classification head"),
    (r"^(backbone\.)?norm\.", "final norm of the classifier; the segmentor has its own norms"),
    (r"\.attn_mask$", "mask of shifted windows, recomputed"),
    (r"^auxiliary_head\.", "auxiliary head, which only training uses"),
    (r"^backbone\.embeddings\.mask_token$", "stands for hidden patches in the encoder's own training"),
    (r"^criterion\.", "weights of the classes in the loss"),
)


def to_current_names(names: Iterable[str]) -> dict[str, str]:
    """Returns {name in the file: name in our models} for all names of one file; our own names stay as they are.

    All are needed at once because the official Swin and ConvNeXt files share names with different meanings.
    """
    names = list(names)
    if is_vit(names):
        return vit_names(names)
    official: _Rules = ()
    if is_official_swin(names):
        official = _OFFICIAL_SWIN
    elif _any(_IS_OFFICIAL_CONVNEXT, names):
        official = _OFFICIAL_CONVNEXT
    current = {name: name for name in names}
    for pattern, replacement in (*_WRAPPERS, *official, *_PREFIX, *_MMDET_2):
        current = {name: re.sub(pattern, replacement, renamed) for name, renamed in current.items()}
    return current


def naming(names: Iterable[str]) -> str:
    """Returns whose names the tensors of a segmentor's or backbone's file have, in words, or "" for our own."""
    names = list(names)
    return next((words for pattern, words in _NAMINGS if _any(pattern, names)), "no prefix backbone.")


def is_official_swin(names: Iterable[str]) -> bool:
    """Returns whether a file has the names of the Swin authors' own files."""
    return _any(_IS_OFFICIAL_SWIN, names)


def why_ignorable(name: str) -> str | None:
    """Returns why our models need no tensor of this current name, or None where one without a place is unexpected."""
    return next((why for pattern, why in _IGNORABLE if re.search(pattern, name)), None)


def in_unfold_order(name: str, tensor: Tensor) -> Tensor:
    """Reorders the input channels of an official Swin file's patch merging; every other tensor is returned as it is.

    There the 2x2 neighbours (0,0), (1,0), (0,1), (1,1) follow each other, all channels of one before the next.
    MMSegmentation unfolds: channels outside, neighbours (0,0), (0,1), (1,0), (1,1) inside.

    Args:
        name: current name.
        tensor: reduction weight [2C, 4C], norm weight or bias [4C].
    """
    if not re.search(r"\.downsample\.(reduction|norm)\.", name):
        return tensor
    blocks = tensor.reshape(*tensor.shape[:-1], 4, -1)[..., [0, 2, 1, 3], :]
    return blocks.transpose(-1, -2).reshape(tensor.shape)


def _any(pattern: re.Pattern[str], names: Iterable[str]) -> bool:
    return any(pattern.search(name) for name in names)
