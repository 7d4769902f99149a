"""Where a model runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vss.core.errors import UserError

if TYPE_CHECKING:
    import torch


def resolve_device(device: str) -> torch.device:
    """Returns the torch device of "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: there is no such device.
    """
    import torch  # here, so that what needs no GPU can import this module

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise UserError(f"device: found {device!r}, allowed: auto, cpu, cuda, cuda:N") from None
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device: {device} requested, but torch sees {torch.cuda.device_count()} GPUs")
    return resolved
