"""What the ops accept. Every error names the argument, what it was and what it must be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vss_ops.geometry import Window

PIXELS = 2**27 - 1  # of one image, or positions of `value`: kernels count these in 32 bits, everything else in 64
HALF = (torch.float16, torch.bfloat16)


def check_tensors(op: str, **tensors: Tensor) -> None:
    """Raises TypeError where an argument is no tensor; the operators' own message would be a RuntimeError."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"vss_ops.{op}: {name} must be a tensor, got {type(tensor).__name__}")


def check_dcnv3(input: Tensor, offset: Tensor, mask: Tensor, window: Window) -> None:
    """Checks the arguments of `dcnv3`.

    Raises:
        TypeError: a tensor's dtype is not allowed.
        ValueError: a shape, a device or a number is not allowed.
    """
    _check_window(window)
    _check_dtypes(input=input, offset=offset, mask=mask)
    _check_devices(input=input, offset=offset, mask=mask)
    channels = window.group * window.group_channels
    if input.dim() != 4 or input.shape[3] != channels:
        raise ValueError(
            f"vss_ops.dcnv3: input must be [N, H, W, {channels}] (group * group_channels = {window.group} * "
            f"{window.group_channels}, channels last), got {list(input.shape)}"
        )
    N, H, W, _ = input.shape
    if H * W > PIXELS:
        raise ValueError(f"vss_ops.dcnv3: input has {H} x {W} pixels per image, more than {PIXELS} are not supported")
    Ho, Wo = window.output_size(H, W)
    if Ho < 1 or Wo < 1:
        raise ValueError(
            f"vss_ops.dcnv3: input of {H} x {W} pixels is smaller than kernel_size {list(window.kernel_size)} "
            f"with padding {list(window.padding)} and dilation {list(window.dilation)}"
        )
    if Ho * Wo > PIXELS:
        raise ValueError(
            f"vss_ops.dcnv3: padding {list(window.padding)} gives {Ho} x {Wo} pixels per output image, more than "
            f"{PIXELS} are not supported"
        )
    points = window.group * window.points
    _check_shape("dcnv3", "offset", offset, (N, Ho, Wo, points * 2), "[N, Ho, Wo, group * points * 2]")
    _check_shape("dcnv3", "mask", mask, (N, Ho, Wo, points), "[N, Ho, Wo, group * points]")


def check_ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> None:
    """Checks the arguments of `ms_deform_attn` as `check_dcnv3` does; values of integer tensors are not read."""
    floats = {
        "value": value,
        "sampling_locations": sampling_locations,
        "attention_weights": attention_weights,
    }
    _check_dtypes(**floats)
    _check_devices(**floats)
    if value.dim() != 4 or value.shape[2] < 1 or value.shape[3] < 1:
        shape = list(value.shape)
        raise ValueError(f"vss_ops.ms_deform_attn: value must be [N, S, M, D], M and D at least 1, got {shape}")
    if sampling_locations.dim() != 6:
        shape = list(sampling_locations.shape)
        raise ValueError(f"vss_ops.ms_deform_attn: sampling_locations must be [N, Q, M, L, P, 2], got {shape}")
    N, S, M, _ = value.shape
    _, Q, _, L, P, _ = sampling_locations.shape
    op = "ms_deform_attn"
    _check_shape(op, "sampling_locations", sampling_locations, (N, Q, M, L, P, 2), "[N, Q, M, L, P, 2]")
    _check_shape(op, "attention_weights", attention_weights, (N, Q, M, L, P), "[N, Q, M, L, P]")
    if L < 1 or P < 1:
        raise ValueError("vss_ops.ms_deform_attn: sampling_locations needs at least one level and one point")
    for name, tensor, shape in (
        ("spatial_shapes", spatial_shapes, (L, 2)),
        ("level_start_index", level_start_index, (L,)),
    ):
        if tensor.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"vss_ops.ms_deform_attn: {name} must be int64 or int32, got {tensor.dtype}")
        _check_shape(op, name, tensor, shape, "[L, 2] (height, width)" if len(shape) == 2 else "[L]")
    if S > PIXELS:
        raise ValueError(f"vss_ops.ms_deform_attn: value has {S} positions, more than {PIXELS} are not supported")


def check_levels(value: Tensor, spatial_shapes: Tensor, level_start_index: Tensor) -> None:
    """Checks that the levels lie inside `value`.

    Reads the integers, so the ops call it only where they are in host memory: on a GPU it would wait for the device.
    """
    levels = zip(spatial_shapes.tolist(), level_start_index.tolist(), strict=True)
    for level, ((height, width), start) in enumerate(levels):
        if height < 0 or width < 0 or start < 0 or start + height * width > value.shape[1]:
            raise ValueError(
                f"vss_ops.ms_deform_attn: level {level}, spatial_shapes [{height}, {width}] and level_start_index "
                f"{start}, does not lie inside the {value.shape[1]} positions of value"
            )


def _check_window(window: Window) -> None:
    limits = (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1))
    for name, least in limits:
        sizes = getattr(window, name)
        if min(sizes) < least:
            raise ValueError(f"vss_ops.dcnv3: {name} must be at least {least}, got {list(sizes)}")
        if max(sizes) > PIXELS:  # kernels count in 32 bits
            raise ValueError(f"vss_ops.dcnv3: {name} must be at most {PIXELS}, got {list(sizes)}")
    if not math.isfinite(window.offset_scale):
        raise ValueError(f"vss_ops.dcnv3: offset_scale must be finite, got {window.offset_scale}")
    for name in ("group", "group_channels"):
        number = getattr(window, name)
        if not 1 <= number <= PIXELS:
            raise ValueError(f"vss_ops.dcnv3: {name} must be from 1 to {PIXELS}, got {number}")
    kernel_h, kernel_w = window.kernel_size
    if kernel_h * kernel_w > PIXELS:
        raise ValueError(
            f"vss_ops.dcnv3: kernel_size {kernel_h} x {kernel_w} has more points than the {PIXELS} that are supported"
        )
    if window.remove_center and (kernel_h * kernel_w % 2 == 0 or kernel_h * kernel_w == 1):
        raise ValueError(
            f"vss_ops.dcnv3: remove_center needs a kernel_size of odd numbers above 1, got {list(window.kernel_size)}"
        )


def _check_dtypes(**tensors: Tensor) -> None:
    """The table is the first tensor: float64 goes with float64 only, half precision also with float32."""
    (table_name, table), *others = tensors.items()
    if table.dtype not in (torch.float32, torch.float64, *HALF):
        raise TypeError(f"vss_ops: {table_name} must be float32, float64, float16 or bfloat16, got {table.dtype}")
    allowed = (torch.float64,) if table.dtype == torch.float64 else (torch.float32, *HALF)
    for name, tensor in others:
        if tensor.dtype not in allowed:
            names = ", ".join(str(dtype) for dtype in allowed)
            raise TypeError(f"vss_ops: {name} must be {names} with {table_name} {table.dtype}, got {tensor.dtype}")


def _check_devices(**tensors: Tensor) -> None:
    (table_name, table), *others = tensors.items()
    for name, tensor in others:
        if tensor.device != table.device:
            raise ValueError(f"vss_ops: {name} is on {tensor.device}, must be on {table.device} as {table_name}")


def _check_shape(op: str, name: str, tensor: Tensor, shape: tuple, meaning: str) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"vss_ops.{op}: {name} must be {meaning} = {list(shape)}, got {list(tensor.shape)}")
