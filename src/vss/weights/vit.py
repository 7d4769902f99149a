"""Published vision transformers (DINOv2, DINOv3, EoMT, in the names of `transformers`) in the places of our models."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_MARK = re.compile(r"(^|\.)embeddings\.cls_token$")
_LAYER = re.compile(r"backbone\.layers\.(\d+)\.(.*)")
_CLASS_TOKEN, _PATCHES = "backbone.embeddings.cls_token", "backbone.embeddings.position_embeddings"
_RULES: tuple[tuple[str, str], ...] = (
    (r"^(dinov2|dinov3_vit|eomt|eomt_dinov3|model)\.", ""),
    (r"^(encoder\.|model\.)?layer\.", "layers."),
    (r"\.attention\.attention\.(q)uery\.", r".attention.\1_proj."),  # names before transformers 5
    (r"\.attention\.attention\.(k)ey\.", r".attention.\1_proj."),
    (r"\.attention\.attention\.(v)alue\.", r".attention.\1_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"^(embeddings|layers)\.", r"backbone.\1."),
    (r"^(layernorm|norm)\.", "backbone.norm."),
    (r"^(query|mask_head|upscale_block|class_predictor|attn_mask_probs)\b", r"decode_head.\1"),
)


def is_vit(names: Iterable[str]) -> bool:
    """Returns whether a file has the names of `transformers`' vision transformers."""
    return any(_MARK.search(name) for name in names)


def vit_names(names: Iterable[str]) -> dict[str, str]:
    """Returns {name in the file: name in our models}, every layer counted to the backbone (`fit` moves the last)."""
    current = {name: name for name in names}
    for pattern, replacement in _RULES:
        current = {name: re.sub(pattern, replacement, renamed) for name, renamed in current.items()}
    return current


@dataclass(frozen=True)
class FittedTensors:
    """Tensors of a file under the names and in the sizes of a certain model.

    Attributes:
        tensors: {name in the model, where it has such a tensor: tensor}.
        names: {the same name: name in the file}.
        changed: {the same name: what was done to its values}.
    """

    tensors: dict[str, Tensor]
    names: dict[str, str]
    changed: dict[str, str]


def fit(tensors: Mapping[str, Tensor], names: Mapping[str, str], target: Mapping[str, Tensor]) -> FittedTensors:
    """Gives a vision transformer's tensors the names and the sizes that a model has them in.

    The last layers of an EoMT are its head's, and so is the norm. DINOv2's table of positions has one for the class
    token, which an EoMT has added to the token itself; it is resized bicubically to the model's image size. Kernels of
    patches of another size are resampled so that they answer alike to a resized image (FlexiViT, arXiv 2212.08013).

    Args:
        tensors, names: {current name: tensor, or name in the file}, with `vit_names`.
        target: the model's state dict.
    """
    before = 1 + max((int(match[1]) for name in target if (match := _LAYER.match(name))), default=-1)
    fitted = FittedTensors({}, {}, {})
    for name, tensor in tensors.items():
        place = _place(name, before, target)
        fitted.tensors[place], fitted.names[place] = tensor, names[name]

    # Learnt positions: a table [1, 1 + n, C] of DINOv2, or [n, C] of EoMT.
    table = f"{_PATCHES}.weight"
    if _PATCHES in fitted.tensors and table in target:
        positions = fitted.tensors.pop(_PATCHES)
        fitted.names[table] = fitted.names.pop(_PATCHES)
        fitted.tensors[_CLASS_TOKEN] = fitted.tensors[_CLASS_TOKEN] + positions[:, :1]
        fitted.tensors[table] = positions[0, 1:]
        fitted.changed[_CLASS_TOKEN] = "its position added"
        fitted.changed[table] = "without the class token's"
    for name, first in ((table, 0), (_PATCHES, 1)):
        if name in fitted.tensors and name in target and fitted.tensors[name].shape != target[name].shape:
            old = fitted.tensors[name].reshape(-1, fitted.tensors[name].shape[-1])
            count = target[name].numel() // old.shape[1] - first
            resized = torch.cat([old[:first], _resize_positions(old[first:], count)])
            fitted.tensors[name] = resized.reshape(target[name].shape)
            fitted.changed[name] = f"{len(old) - first} -> {count} positions: bicubic"

    for name in fitted.tensors:
        if re.search(r"embeddings\.patch_embeddings\.(projection\.)?weight$", name) and name in target:
            old_side, side = fitted.tensors[name].shape[-1], target[name].shape[-1]
            if old_side != side:
                fitted.tensors[name] = _resample_patches(fitted.tensors[name], side)
                fitted.changed[name] = f"patches of {old_side} -> {side} pixels"
    return fitted


def _place(name: str, before: int, target: Mapping[str, Tensor]) -> str:
    """Returns the name that a model has for a tensor, whose backbone has `before` layers."""
    candidates = [name, name.replace("backbone.norm.", "decode_head.layernorm.")]
    if (match := _LAYER.match(name)) and int(match[1]) >= before and "decode_head.projections.0.0.weight" not in target:
        candidates.append(f"decode_head.layers.{int(match[1]) - before}.{match[2]}")
    candidates += [other.replace(".o_proj.", ".out_proj.") for other in candidates]
    return next((candidate for candidate in candidates if candidate in target), name)


def _resize_positions(positions: Tensor, count: int) -> Tensor:
    """Resizes a table [n, C] of a square grid to another square grid."""
    old, new = math.isqrt(len(positions)), math.isqrt(count)
    grid = positions.float().T.reshape(1, -1, old, old)
    resized = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return resized[0].flatten(1).T.to(positions.dtype)


def _resample_patches(kernel: Tensor, side: int) -> Tensor:
    """Resamples a patch embedding [C, 3, p, p] to patches of `side` pixels."""
    old = kernel.shape[-1]
    basis = torch.eye(old * old, dtype=torch.float64).view(-1, 1, old, old)
    resize = F.interpolate(basis, size=(side, side), mode="bicubic", antialias=True, align_corners=False).flatten(1)
    resampled = kernel.double().flatten(2) @ torch.linalg.pinv(resize).T  # [C, 3, side * side]
    return resampled.view(*kernel.shape[:2], side, side).to(kernel.dtype)
