"""Golden cases as models of this project: constructor arguments and weights translated from their `meta.json`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

torch.set_num_threads(1)  # the tensors are tiny


def load_meta(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "meta.json").read_text())


def load_weights32(path: Path, *, prefix: str = "") -> dict[str, torch.Tensor]:
    """Reads a golden state dict (float16 holds it exactly) as float32; keeps the names under `prefix`, without it."""
    tensors = load_file(path)
    return {
        name.removeprefix(prefix): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def intern_image_arguments(constructor: dict[str, Any]) -> dict[str, Any]:
    """Drops upstream's arguments that choose an implementation, not a function."""
    names = [name for name in constructor if name not in ("type", "core_op", "norm_layer")]
    return {name: constructor[name] for name in names if constructor[name] is not None}  # None: the default


def mask2former_arguments(head: dict[str, Any]) -> dict[str, Any]:
    """Translates mmdet's nested head config into our constructor's arguments."""
    encoder, decoder = head["pixel_decoder"]["encoder"], head["transformer_decoder"]
    return {
        "in_channels": head["in_channels"],
        "num_classes": head["num_classes"],
        "feat_channels": head["feat_channels"],
        "num_queries": head["num_queries"],
        "num_heads": decoder["layer_cfg"]["cross_attn_cfg"]["num_heads"],
        "encoder_layers": encoder["num_layers"],
        "encoder_ffn_channels": encoder["layer_cfg"]["ffn_cfg"]["feedforward_channels"],
        "decoder_layers": decoder["num_layers"],
        "decoder_ffn_channels": decoder["layer_cfg"]["ffn_cfg"]["feedforward_channels"],
        "num_points": head["train_cfg"]["num_points"],
        "oversample_ratio": head["train_cfg"]["oversample_ratio"],
        "importance_sample_ratio": head["train_cfg"]["importance_sample_ratio"],
        "loss_weights": [head[f"loss_{term}"]["loss_weight"] for term in ("cls", "mask", "dice")],
        "no_object_weight": head["loss_cls"]["class_weight"][-1],
    }


def to_current_name(name: str, rules: list[list[str]]) -> str:
    """Renames a tensor of the old Mask2Former head by the golden case's (pattern, replacement) rules."""
    part, _, name = name.partition(".")
    for old, new in rules if part == "decode_head" else []:
        name = re.sub(old, new, name)
    return f"{part}.{name}"


def golden_segmentor(folder: Path):
    """Builds the segmentor of the golden mask2former case with its weights, in evaluation mode."""
    from vss.models.build import build_segmentor

    meta = load_meta(folder)
    config = {
        "type": "Segmentor",
        "backbone": {"type": "InternImage"} | intern_image_arguments(meta["forward"]["constructor"]["backbone"]),
        "decode_head": {"type": "Mask2FormerHead"} | mask2former_arguments(meta["loss"]["head_config"]),
        "test_cfg": {"mode": "whole"},
    }
    segmentor = build_segmentor(config).eval()
    rules = meta["loss"]["name_conversion_old_to_new"]
    weights = load_weights32(folder / "state_dict.safetensors")
    segmentor.load_state_dict({to_current_name(name, rules): tensor for name, tensor in weights.items()}, strict=True)
    return segmentor
