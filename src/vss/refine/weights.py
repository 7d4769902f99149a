"""Weights of the refine stage: SAM's, CascadePSP's and our own, all flat dictionaries of tensors."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vss.errors import UserError


def read_weights(path: str | os.PathLike | None, *, of: str) -> dict[str, Tensor]:
    """Reads a safetensors file, or a pickled state dict with `weights_only=True`, to the CPU.

    The prefix `module.` that data-parallel training leaves on every name is removed.

    Args:
        path: the file; None is refused like a missing file.
        of: whose weights, for the message.

    Raises:
        UserError: no such file, not readable, needs unpickling of code, or not a flat dictionary of tensors.
    """
    if path is None:
        raise UserError(f"{of}: no weights given")
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file (weights of {of})")
    try:
        if Path(path).suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{path}: not readable as weights of {of} ({str(error).splitlines()[0]})") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: not a flat dictionary of tensors (weights of {of})")
    return {name.removeprefix("module."): value for name, value in state.items()}


def load_into(module: nn.Module, state: Mapping[str, Tensor], *, path: str | os.PathLike, of: str) -> None:
    """Copies `state` into `module`; every name and shape must match.

    Raises:
        UserError: a parameter is missing, unexpected or of another shape; the first is named.
    """
    wanted = module.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is not part of it" for name in state if name not in wanted]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    if problems:
        raise UserError(f"{path}: not weights of {of}: {problems[0]} ({len(problems)} differences)")
    module.load_state_dict(dict(state))
