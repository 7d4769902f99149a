"""The dtype that a network of refinement runs in."""

from __future__ import annotations

import torch

from vss.core.log import log


def working_dtype(precision: str, device: torch.device, *, what: str) -> torch.dtype:
    """Returns the dtype of a precision; float32, with a line in the log, where a CPU would have to imitate bfloat16.

    Args:
        precision: "float32", "bfloat16" or "float16".
        device: that the network runs on.
        what: starts the line.
    """
    if device.type == "cpu" and precision == "bfloat16" and not has_bfloat16():
        log(f"{what}: this CPU has no bfloat16, which it would have to imitate; float32 is used")
        return torch.float32
    return getattr(torch, precision)


def has_bfloat16() -> bool:
    """Returns whether the CPU calculates in bfloat16; where it does not, float32 is many times as fast."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()
