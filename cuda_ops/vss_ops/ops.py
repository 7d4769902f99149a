"""The public functions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vss_ops import reference
from vss_ops.geometry import Window, pair


def dcnv3(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    *,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    group: int,
    group_channels: int,
    offset_scale: float,
    remove_center: bool = False,
    softmax: bool = False,
) -> Tensor:
    """Computes the core operator of DCNv3; see `vss_ops.reference.dcnv3`."""
    window = Window(
        pair("kernel_size", kernel_size),
        pair("stride", stride),
        pair("padding", padding),
        pair("dilation", dilation),
        group,
        group_channels,
        float(offset_scale),
        bool(remove_center),
    )
    return reference.dcnv3(input, offset, mask, window, softmax)


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    softmax: bool = False,
) -> Tensor:
    """Computes multi-scale deformable attention; see `vss_ops.reference.ms_deform_attn`."""
    return reference.ms_deform_attn(
        value, spatial_shapes, level_start_index, sampling_locations, attention_weights, softmax
    )
