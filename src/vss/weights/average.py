"""Model averaging ("soup"): several weights of one model become one (Wortsman et al., 2022, uniform soup).

Floating-point tensors are averaged in float64; integer buffers (BatchNorm's counters, Swin's index tables) are taken
from the last file, because a mean of counters means nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vss.configs.resolve import with_checkpointing
from vss.core.errors import UserError
from vss.core.files import read_json, sha256_of_file, write_json
from vss.weights.card import write_model_card
from vss.weights.fingerprint import Fingerprint, sha256_of_weights, write_fingerprint
from vss.weights.tensor_files import open_safetensors, save_tensors


def average_weights(parts: Sequence[str | os.PathLike]) -> dict[str, Tensor]:
    """Returns the averaged tensors of safetensors files, read tensor by tensor.

    Raises:
        UserError: a file cannot be read, or the files differ in names, shapes or types.
    """
    files = [open_safetensors(part) for part in parts]
    names = list(files[0].keys())
    for part, file in zip(parts[1:], files[1:], strict=True):
        if differing := set(names) ^ set(file.keys()):
            raise UserError(f"{part}: not the same model as {parts[0]}, they differ in {min(differing)}")
    averaged = {}
    for name in names:
        tensors = [file.get_tensor(name) for file in files]
        for part, tensor in zip(parts, tensors, strict=True):
            if (tensor.shape, tensor.dtype) != (tensors[0].shape, tensors[0].dtype):
                raise UserError(f"{part}: {name} is {list(tensor.shape)}, in {parts[0]} {list(tensors[0].shape)}")
        averaged[name] = _mean(tensors) if tensors[0].is_floating_point() else tensors[-1]
    return averaged


def soup(
    *,
    model: str,
    parts: Sequence[str | os.PathLike],
    configs: Sequence[str | os.PathLike],
    weights: str | os.PathLike,
    fingerprint: str | os.PathLike,
    config: str | os.PathLike,
    audit: str | os.PathLike,
) -> None:
    """Writes the average of trained weights with the files that stand beside any weights.

    Args:
        model: name of the soup.
        parts: weights files, safetensors.
        configs: their resolved configs, in the same order; all must describe the same network.
        weights, fingerprint, config, audit: files to write.

    Raises:
        UserError: fewer than two parts, parts of different networks, or one that is not what its fingerprint says.
    """
    if len(parts) < 2 or len(parts) != len(configs):
        raise UserError(
            f"soup {model}: found {len(parts)} weights and {len(configs)} configs, expected two or more each"
        )
    resolved = [read_json(path) for path in configs]
    first, *others = [{**one, "model": with_checkpointing(one["model"], False)} for one in resolved]
    for path, other in zip(configs[1:], others, strict=True):
        for key in ("model", "classes", "normalisation"):
            if other.get(key) != first.get(key):
                raise UserError(f"{path}: key {key!r} differs from {configs[0]}; a soup needs parts of one model")
    digests = [sha256_of_weights(part) for part in parts]
    averaged = average_weights(parts)
    save_tensors(averaged, weights)
    floating = sorted(name for name, tensor in averaged.items() if tensor.is_floating_point())
    write_json(audit, {"averaged": floating, "from_last": sorted(set(averaged) - set(floating))})
    write_json(config, resolved[-1])
    sources = [{"file": Path(part).parent.name, "sha256": digest} for part, digest in zip(parts, digests, strict=True)]
    write_fingerprint(fingerprint, Fingerprint(sha256_of_file(weights), "finetune", model, {"soup": sources}, None))
    write_model_card(Path(weights).parent)


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    total = torch.zeros(tensors[0].shape, dtype=torch.float64)
    for tensor in tensors:
        total += tensor
    return (total / len(tensors)).to(tensors[0].dtype)
