"""What several models share: norms over either layout, linear layers that stay in float32, optional checkpointing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LAYER_NORM_EPS = 1e-6


class _ToChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, H, W, C]
        return x.permute(0, 2, 3, 1)


class _ToChannelsFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:  # [N, H, W, C] -> [N, C, H, W]
        return x.permute(0, 3, 1, 2)


def layer_norm(channels: int, *, channels_first: bool = False, restore: bool = False) -> nn.Sequential:
    """Returns a LayerNorm over channels; InternImage's Sequential decides its place in the parameter names (0 or 1).

    `channels_first`: the input is [N, C, H, W]; the output is [N, H, W, C], or [N, C, H, W] with `restore`.
    """
    layers: list[nn.Module] = [_ToChannelsLast()] if channels_first else []
    layers.append(nn.LayerNorm(channels, eps=LAYER_NORM_EPS))
    if restore:
        layers.append(_ToChannelsFirst())
    return nn.Sequential(*layers)


def at_least_float32(x: Tensor) -> Tensor:
    """Returns `x` in float32, or unchanged where it is float32 or float64 already."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Returns a context in which autocast does nothing on `device`; some devices (meta) have none to begin with."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def linear_in_float32(layer: nn.Linear, x: Tensor) -> Tensor:
    """Applies a linear layer in float32 (float64 stays), whatever autocast or the weights' own dtype say.

    Sampling offsets and attention logits need it: bfloat16 has 8 bits of mantissa, so that an offset of 20 pixels would
    be rounded to an eighth of a pixel.
    """
    with without_autocast(x.device):
        bias = None if layer.bias is None else at_least_float32(layer.bias)
        return F.linear(at_least_float32(x), at_least_float32(layer.weight), bias)


def maybe_checkpoint(enabled: bool, function: Callable[..., Any], *inputs: Any) -> Any:
    """Calls `function(*inputs)`; if `enabled` and gradients are recorded, backward recomputes its activations."""
    if enabled and torch.is_grad_enabled():
        return checkpoint(function, *inputs, use_reentrant=False)
    return function(*inputs)
