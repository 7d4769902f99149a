"""Weights in and out: published checkpoints and our safetensors, with an audit of every tensor."""

from __future__ import annotations

import os
import pickle
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vss.errors import UserError
from vss.formats import atomic_path

_TOP_LEVEL_KEYS = ("state_dict", "model", "module", "model_ema")
_CLASS_LAYER = re.compile(r"(decode_head|auxiliary_head)\.(conv_seg|cls_embed)\.(weight|bias)$")
_ENCODER = r"^(decode_head\.pixel_decoder\.encoder\.layers\.\d+)"
_DECODER = r"^(decode_head\.transformer_decoder\.layers\.\d+)"
# Old name -> today's name, applied in this order to every key.
_RENAMES = (
    (r"^module\.", ""),
    (r"^model\.(?=patch_embed\.|levels\.)", ""),  # Hugging Face's InternImage
    (r"\.layer_scale([12])$", r".gamma\1"),
    (r"^(patch_embed|levels)\.", r"backbone.\1."),  # classifier -> segmentor
    (_ENCODER + r"\.attentions\.0\.", r"\1.self_attn."),  # mmdet 2 -> mmdet 3
    (_ENCODER + r"\.ffns\.0\.", r"\1.ffn."),
    (_DECODER + r"\.attentions\.0\.", r"\1.cross_attn."),
    (_DECODER + r"\.attentions\.1\.", r"\1.self_attn."),
    (_DECODER + r"\.ffns\.0\.", r"\1.ffn."),
)
LOWEST_BACKBONE_SHARE = 0.99


@dataclass
class Audit:
    """What became of every tensor of a checkpoint and of the model.

    Attributes:
        source: file name.
        loaded: model tensors taken under their own name.
        renamed: {name in the model: name in the file}.
        resized: {name in the model: what was done}, shapes differ.
        new: model tensors that keep their fresh initialisation.
        unused: tensors of the file that have no place in the model.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    resized: dict[str, str] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Returns plain lists and dictionaries for `formats.write_json`."""
        return asdict(self)

    def summary(self) -> str:
        """Returns one line with the counts."""
        counts = (("loaded", self.loaded), ("renamed", self.renamed), ("resized", self.resized), ("new", self.new))
        text = ", ".join(f"{len(names)} {what}" for what, names in counts)
        return f"{self.source}: {text}, {len(self.unused)} unused"


def save_weights(model: nn.Module, path: str | os.PathLike) -> None:
    """Writes a model's state dict as safetensors, whole or not at all."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as aside:
        save_file(tensors, aside)


def load_weights(model: nn.Module, path: str | os.PathLike, *, allow_resize: bool = True) -> Audit:
    """Loads a safetensors file or a published checkpoint into a segmentor and returns the audit.

    Class layers of another number of classes keep their fresh values (of Mask2Former's `cls_embed` the last row, "no
    object", is kept); Swin's relative position tables of another window are resized bicubically; queries are cut or
    repeated.

    Args:
        model: a `Segmentor`, or any module with names `backbone.`, `decode_head.`, `auxiliary_head.`.
        path: .safetensors, or a pickle that torch reads with weights_only=True.
        allow_resize: False makes any difference of shape an error.

    Raises:
        UserError: the file cannot be read, or fills less than 99 % of the backbone's tensors.
    """
    audit = Audit(source=Path(path).name)
    target = model.state_dict()
    filled: dict[str, Tensor] = {}
    for old, tensor in read_tensors(path).items():
        name = todays_name(old)
        if name not in target:
            audit.unused.append(old)
            continue
        if tensor.shape != target[name].shape:
            if not allow_resize:
                raise UserError(f"{path}: {old} has shape {list(tensor.shape)}, expected {list(target[name].shape)}")
            tensor, how = _resize(name, tensor, target[name])
            if how is None:
                audit.unused.append(old)
                continue
            audit.resized[name] = how
        elif name != old:
            audit.renamed[name] = old
        else:
            audit.loaded.append(name)
        filled[name] = tensor
    audit.new = [name for name in target if name not in filled]
    _check_backbone(path, target, filled)
    model.load_state_dict(filled, strict=False)
    return audit


def read_tensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """Returns the tensors of a checkpoint by their names in the file, without optimizer, meta and other entries."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such weights file")
    if Path(path).suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(
            f"{path}: refused, torch cannot read it as plain weights ({str(error).splitlines()[0]})"
        ) from None
    for key in _TOP_LEVEL_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise UserError(f"{path}: no tensors found at the top level or under {', '.join(_TOP_LEVEL_KEYS)}")
    return tensors


def todays_name(name: str) -> str:
    """Returns what a tensor of any published file is called in a `Segmentor` (FACTS: mmdet 2, classifier, HF names)."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _resize(name: str, source: Tensor, target: Tensor) -> tuple[Tensor, str | None]:
    """Returns the tensor in the target's shape and what was done; None where the two have nothing in common."""
    shapes = f"{list(source.shape)} -> {list(target.shape)}"
    if _CLASS_LAYER.search(name) and source.shape[1:] == target.shape[1:]:
        fresh = target.clone()
        if ".cls_embed." in name:
            fresh[-1] = source[-1]
            return fresh, f"{shapes}: fresh, but the no-object row kept"
        return fresh, f"{shapes}: fresh"
    if name.endswith("relative_position_bias_table") and source.shape[1] == target.shape[1]:
        return _resize_bias_table(source, target.shape[0]), f"{shapes}: bicubic"
    if name.endswith("relative_position_index"):
        return target, f"{shapes}: rebuilt"
    if re.search(r"query_(embed|feat)\.weight$", name) and source.shape[1] == target.shape[1]:
        repeats = -(-target.shape[0] // source.shape[0])
        return source.repeat(repeats, 1)[: target.shape[0]], f"{shapes}: cut or repeated"
    return source, None


def _resize_bias_table(table: Tensor, entries: int) -> Tensor:
    """Resizes Swin's [(2w - 1)^2, heads] table to another window."""
    old, new = round(table.shape[0] ** 0.5), round(entries**0.5)
    grid = table.T.reshape(1, -1, old, old).float()
    resized = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return resized.reshape(table.shape[1], entries).T.to(table.dtype)


def _check_backbone(path: str | os.PathLike, target: dict[str, Tensor], filled: dict[str, Tensor]) -> None:
    expected = [name for name in target if name.startswith("backbone.")]
    found = sum(name in filled for name in expected)
    if found < LOWEST_BACKBONE_SHARE * len(expected):
        missing = next(name for name in expected if name not in filled)
        raise UserError(
            f"{path}: fills {found} of {len(expected)} backbone tensors, at least 99 % are needed; missing is {missing}"
        )
