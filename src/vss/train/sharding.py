"""Training with parameters, gradients and optimizer state sharded over the ranks (FSDP2), and checkpoints of it.

A sharded checkpoint is a folder: every rank writes its part to `rank<n>.pth`, and when all parts are there the first
one writes `shards.json`, without which the folder counts for nothing. Any number of ranks can continue from it, one
included. torch's own format (torch.distributed.checkpoint) is read by unpickling, which runs what a file holds.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, get_rank, get_world_size
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import keystr, tree_map_with_path

from vss.core.errors import UserError
from vss.core.files import read_json, write_json
from vss.train.whole import is_whole, save_whole

_SHARDS = "shards.json"


def shard_parameters(model: nn.Module) -> nn.Module:
    """Shards a model over all ranks, in place: by block of its backbone, so that one block at a time is gathered."""
    mesh = init_device_mesh(next(model.parameters()).device.type, (get_world_size(),))
    lists = [module for module in model.backbone.modules() if isinstance(module, nn.ModuleList)]
    for blocks in reversed(lists):  # inner lists first: an outer block then takes what is left
        for block in blocks:
            if any(True for _ in block.parameters()):
                fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


@dataclass(frozen=True)
class Parts:
    """A tensor that was cut along its first axis, a part for each rank."""

    tensors: tuple[Tensor, ...]

    def joined(self) -> Tensor:
        """Returns the whole tensor."""
        return torch.cat(self.tensors)


def gathered(tensor: Tensor) -> Tensor:
    """Returns a tensor whole and on the CPU; all ranks have to call this for one that is sharded."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def own_part(value: Any, like: Tensor) -> Any:
    """Returns a value of a checkpoint as this rank needs it: sharded where `like` is, and of its shape."""
    value = value.joined() if isinstance(value, Parts) else value
    if isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape:
        value = value.to(like.device)
        return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
    return value


def write_shards(folder: Path, checkpoint: dict[str, Any]) -> None:
    """Writes a checkpoint whose sharded tensors every rank has a part of; all ranks have to call this.

    Raises:
        UserError: the disk is full.
    """
    sharded = []

    def part(path: Any, value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        sharded.append(keystr(path))
        return value.to_local()

    content = tree_map_with_path(part, checkpoint)
    if get_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    barrier()
    save_whole(folder / f"rank{get_rank()}.pth", lambda aside: torch.save(content, aside))
    barrier()
    if get_rank() == 0:
        write_json(folder / _SHARDS, {"ranks": get_world_size(), "sharded": sharded})


def read_shards(folder: Path) -> dict[str, Any]:
    """Returns the checkpoint of a folder, with `Parts` in place of what was sharded; nothing is copied into memory."""
    about = read_json(folder / _SHARDS)
    sharded = set(about["sharded"])
    parts = [
        torch.load(folder / f"rank{rank}.pth", map_location="cpu", weights_only=True, mmap=True)
        for rank in range(about["ranks"])
    ]

    def joined(path: Any, first: Any, *others: Any) -> Any:
        return Parts((first, *others)) if keystr(path) in sharded else first

    return tree_map_with_path(joined, *parts)


def shards_are_whole(folder: Path) -> bool:
    """Returns whether every part of a sharded checkpoint is there and is what was written."""
    try:
        about = read_json(folder / _SHARDS)
    except UserError:
        return False
    files = [folder / f"rank{rank}.pth" for rank in range(about["ranks"])]
    return all(file.is_file() and is_whole(file) for file in files)
