"""Weights of the refine stage: SAM's, CascadePSP's and our own."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor, nn

from vss.core.errors import UserError
from vss.weights.tensor_files import read_tensor_file


def read_weights(path: str | os.PathLike | None, *, of: str) -> dict[str, Tensor]:
    """Returns the tensors of a weights file, without the prefix `module.` that data-parallel training leaves.

    Args:
        path: safetensors, or a pickle that torch reads with `weights_only=True`.
        of: whose weights, for the message.

    Raises:
        UserError: no path, no such file, or not readable as plain weights.
    """
    if path is None:
        raise UserError(f"{of}: no weights given")
    return {name.removeprefix("module."): tensor for name, tensor in read_tensor_file(path).tensors.items()}


def load_into(module: nn.Module, state: Mapping[str, Tensor], *, path: str | os.PathLike, of: str) -> None:
    """Copies `state` into `module`; every name and shape must match, but for counters that only training reads.

    Raises:
        UserError: a parameter is missing, unexpected or of another shape; the first is named.
    """
    wanted = module.state_dict()
    absent = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    problems = [f"{name} is missing" for name in absent]
    problems += [f"{name} is not part of it" for name in state if name not in wanted]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    if problems:
        raise UserError(f"{path}: not weights of {of}: {problems[0]} ({len(problems)} differences)")
    module.load_state_dict(dict(state), strict=False)
