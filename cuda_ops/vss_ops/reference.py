"""DCNv3 and multi-scale deformable attention in plain PyTorch: the definition of correct.

Both ops are one sum. Every output row (a pixel of a group, or a query of a head) adds J bilinear samples, and a
bilinear sample is four rows of a table [rows, channels], so

    out[b] = sum_j weight[b, j] * table[index[b, j]]

with `4 * samples` terms per row. The ops differ only in how sample positions are found; what follows is shared.

A coordinate is in pixels, pixel centres at integers. A corner outside the image reads zero; a position that is not
strictly inside (-1, size), NaN included, contributes nothing and gets no gradient. At an integer position the
derivative is the one to the right, as everywhere in the field. Half precision computes and accumulates in float32.

`dcnv3` and `ms_deform_attn` are differentiable twice. The `*_backward` functions are the same derivatives written
out, for use below autograd, with memory bounded by `CHUNK_ELEMENTS` instead of by the number of samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vss_ops.geometry import Window

# Largest gathered block in elements. On a CPU 2 MiB of float32 stays in a core's second-level cache, which makes the
# scatter of the backward four times as fast as one pass (measured); other devices need few, large launches.
CHUNK_ELEMENTS = {"cpu": 1 << 19}
CHUNK_ELEMENTS_ELSEWHERE = 1 << 26


class Samples(NamedTuple):
    """Bilinear samples of B output rows, S samples each, every one with 2 lines times 2 columns of corners.

    A corner's weight is the product of its line's and its column's, which are zero outside the image. The corners are
    the leading axes, so that everything done to samples runs over long contiguous memory.
    """

    index: Tensor  # integers [B, 2 * 2 * S], row of the table of (line, column, sample); some row where outside
    weight_x: Tensor  # [2, B, S] weights of the left and the right column
    weight_y: Tensor  # [2, B, S] weights of the upper and the lower line
    slope_x: Tensor  # [2, B, S] derivatives of weight_x: -1 and 1, zero outside
    slope_y: Tensor  # [2, B, S]


def dcnv3(input: Tensor, offset: Tensor, mask: Tensor, window: Window, softmax: bool = False) -> Tensor:
    """Computes the core operator of DCNv3 (InternImage, arXiv 2211.05778, equation 2).

    Args:
        input: [N, H, W, group * group_channels], channels last.
        offset: [N, Ho, Wo, group * P * 2], (x, y) in input pixels before `offset_scale`; kernel points x-major.
        mask: [N, Ho, Wo, group * P], weights of the points; logits when `softmax` is set.
        window: kernel geometry; P = window.points.
        softmax: apply a softmax over the P points of every group first.

    Returns:
        [N, Ho, Wo, group * group_channels] in the dtype of `input`.
    """
    dtype = _compute_dtype(input)
    samples = _dcnv3_samples(input, offset.to(dtype), window)
    weights = _rows_of(mask, window.points, dtype)
    weights = weights.softmax(-1) if softmax else weights
    table = input.reshape(-1, window.group_channels).to(dtype)
    return _weighted_samples(table, samples, weights).reshape(*offset.shape[:3], input.shape[3]).to(input.dtype)


def dcnv3_backward(
    grad: Tensor, input: Tensor, offset: Tensor, mask: Tensor, window: Window, softmax: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of `dcnv3` for input, offset and mask, each in the dtype of its tensor."""
    dtype = _compute_dtype(input)
    samples = _dcnv3_samples(input, offset.to(dtype), window)
    weights = _rows_of(mask, window.points, dtype)
    table = input.reshape(-1, window.group_channels).to(dtype)
    rows = grad.reshape(-1, window.group_channels).to(dtype)
    grad_table, grad_x, grad_y, grad_weights = _weighted_samples_backward(rows, table, samples, weights, softmax)
    grad_offset = torch.stack((grad_x, grad_y), -1) * window.offset_scale
    return (
        grad_table.reshape(input.shape).to(input.dtype),
        grad_offset.reshape(offset.shape).to(offset.dtype),
        grad_weights.reshape(mask.shape).to(mask.dtype),
    )


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    softmax: bool = False,
) -> Tensor:
    """Computes multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, equation 3).

    Args:
        value: [N, S, M, D], the levels concatenated, row-major within a level.
        spatial_shapes: integers [L, 2], (height, width) of every level.
        level_start_index: integers [L], first row of every level in `value`.
        sampling_locations: [N, Q, M, L, P, 2], (x, y) in units of the level: pixel = location * size - 0.5.
        attention_weights: [N, Q, M, L, P]; logits when `softmax` is set.
        softmax: apply a softmax over the L * P points of every head first.

    Returns:
        [N, Q, M * D] in the dtype of `value`.
    """
    dtype = _compute_dtype(value)
    samples = _attention_samples(value, spatial_shapes, level_start_index, sampling_locations.to(dtype))
    N, Q, M, L, P, _ = sampling_locations.shape
    weights = _rows_of(attention_weights, L * P, dtype)
    weights = weights.softmax(-1) if softmax else weights
    table = value.reshape(-1, value.shape[3]).to(dtype)
    return _weighted_samples(table, samples, weights).reshape(N, Q, M * value.shape[3]).to(value.dtype)


def ms_deform_attn_backward(
    grad: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    softmax: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of `ms_deform_attn` for value, sampling_locations and attention_weights."""
    dtype = _compute_dtype(value)
    samples = _attention_samples(value, spatial_shapes, level_start_index, sampling_locations.to(dtype))
    L, P = sampling_locations.shape[3:5]
    weights = _rows_of(attention_weights, L * P, dtype)
    table = value.reshape(-1, value.shape[3]).to(dtype)
    rows = grad.reshape(-1, value.shape[3]).to(dtype)
    grad_table, grad_x, grad_y, grad_weights = _weighted_samples_backward(rows, table, samples, weights, softmax)
    width, height = (spatial_shapes[:, i].to(dtype).repeat_interleave(P) for i in (1, 0))
    grad_locations = torch.stack((grad_x * width, grad_y * height), -1)
    return (
        grad_table.reshape(value.shape).to(value.dtype),
        grad_locations.reshape(sampling_locations.shape).to(sampling_locations.dtype),
        grad_weights.reshape(attention_weights.shape).to(attention_weights.dtype),
    )


def _compute_dtype(table: Tensor) -> torch.dtype:
    return table.dtype if table.dtype == torch.float64 else torch.float32


def _rows_of(weights: Tensor, samples: int, dtype: torch.dtype) -> Tensor:
    return weights.reshape(-1, samples).to(dtype)


def _dcnv3_samples(input: Tensor, offset: Tensor, window: Window) -> Samples:
    N, H, W, C = input.shape
    Ho, Wo = offset.shape[1:3]
    group, device, dtype = C // window.group_channels, input.device, offset.dtype
    offset = offset.reshape(N, Ho, Wo, group, window.points, 2)
    base_x, base_y = _kernel_points(window, device)
    first_x, first_y = window.first_centre()
    centre_x = torch.arange(Wo, device=device, dtype=dtype) * window.stride[1] + first_x
    centre_y = torch.arange(Ho, device=device, dtype=dtype) * window.stride[0] + first_y
    x = centre_x.view(1, 1, Wo, 1, 1) + (offset[..., 0] + base_x) * window.offset_scale
    y = centre_y.view(1, Ho, 1, 1, 1) + (offset[..., 1] + base_y) * window.offset_scale
    # the table has one row a (image, pixel, group): row = (image * H * W + pixel) * group + g
    image = torch.arange(N, device=device).view(N, 1, 1, 1, 1) * (H * W * group)
    start = image + torch.arange(group, device=device).view(1, 1, 1, group, 1)
    start = start.expand_as(x).reshape(-1, window.points)
    return _corners(x.reshape(-1, window.points), y.reshape(-1, window.points), W, H, start, group)


def _kernel_points(window: Window, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns x and y of the kernel points relative to the centre, integers [P]; x is the slow axis.

    Made where they are needed: a copy from the host would wait for the device, and cannot be captured in a CUDA graph.
    """
    kernel_h, kernel_w = window.kernel_size
    half_y, half_x = window.half()
    number = torch.arange(window.points, device=device)
    if window.remove_center:
        number = number + (number >= kernel_h * kernel_w // 2)
    return number // kernel_h * window.dilation[1] - half_x, number % kernel_h * window.dilation[0] - half_y


def _attention_samples(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor) -> Samples:
    N, S, M, _ = value.shape
    Q, L, P = locations.shape[1], locations.shape[3], locations.shape[4]
    device = value.device
    shapes, starts = shapes.to(device), starts.to(device)
    # A level that is not inside the table is empty, as on a GPU, where the host cannot look before; an empty level may
    # start beyond the table, and may still be wide. Where the sizes are at most S their product is no overflow.
    inside = (shapes >= 1).all(1) & (shapes <= S).all(1) & (starts >= 0) & (starts <= S - shapes.prod(1))
    shapes, starts = torch.where(inside.unsqueeze(1), shapes, 0), torch.where(inside, starts, 0)
    height, width = (shapes[:, i].view(L, 1) for i in (0, 1))
    x = locations[..., 0] * width - 0.5
    y = locations[..., 1] * height - 0.5
    # the table has one row a (image, position, head): row = (image * S + position) * M + head
    image = torch.arange(N, device=device).view(N, 1, 1, 1, 1) * S
    start = (image + starts.view(L, 1)) * M + torch.arange(M, device=device).view(M, 1, 1)
    start = start.expand(N, Q, M, L, P).reshape(-1, L * P)
    rows = N * Q * M
    width, height = (v.expand(L, P).reshape(1, -1).expand(rows, -1) for v in (width, height))
    return _corners(x.reshape(-1, L * P), y.reshape(-1, L * P), width, height, start, M)


def _corners(x: Tensor, y: Tensor, width: Tensor | int, height: Tensor | int, start: Tensor, stride: int) -> Samples:
    """Splits positions [B, S] into their 2x2 corners; a pixel's row is `start + stride * (line * width + column)`."""
    near = (x > -1) & (x < width) & (y > -1) & (y < height)  # False for NaN
    columns, weight_x, slope_x = _corners_1d(x, width, near)
    lines, weight_y, slope_y = _corners_1d(y, height, near)
    index = (lines * (width * stride) + start).unsqueeze(1) + columns * stride
    return Samples(_corners_last(index), weight_x, weight_y, slope_x, slope_y)


def _corners_1d(x: Tensor, size: Tensor | int, near: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the two pixels around x [2, B, S], their weights and the weights' derivatives."""
    x = torch.where(near, x, 0.0)
    first = torch.floor(x.detach())
    fraction = x - first
    pixels = torch.stack((first, first + 1))
    inside = (pixels >= 0) & (pixels < size) & near
    weight = torch.where(inside, torch.stack((1 - fraction, fraction)), 0.0)
    slope = inside.to(x.dtype)
    slope[0].neg_()
    return torch.where(inside, pixels, 0.0).long(), weight, slope


def _corners_last(corners: Tensor) -> Tensor:
    """Turns [2, 2, B, S] into [B, 2 * 2 * S]."""
    return corners.permute(2, 0, 1, 3).flatten(1)


def _corner_weights(samples: Samples, weights: Tensor) -> Tensor:
    """Returns the weights [B, 2 * 2 * S] of all corners, given those of the samples [B, S]."""
    return _corners_last((samples.weight_y * weights).unsqueeze(1) * samples.weight_x)


def _weighted_samples(table: Tensor, samples: Samples, weights: Tensor) -> Tensor:
    if torch.compiler.is_exporting():  # a gather and a product, which every format of exported graphs has
        return torch.bmm(_corner_weights(samples, weights).unsqueeze(1), table[samples.index]).squeeze(1)
    return _WeightedRows.apply(table, samples.index, _corner_weights(samples, weights))


def _weighted_samples_backward(
    grad: Tensor, table: Tensor, samples: Samples, weights: Tensor, softmax: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns gradients for the table, the positions x and y [B, S] in pixels, and the weights [B, S]."""
    weights = weights.softmax(-1) if softmax else weights
    grad_table = _scatter_rows(grad, samples.index, _corner_weights(samples, weights), table.shape[0])
    dots = _row_dots(grad, table, samples.index)  # d out / d corner weight
    dots = dots.view(-1, 2, 2, weights.shape[1]).permute(1, 2, 0, 3).contiguous()
    by_column = (dots * samples.weight_y.unsqueeze(1)).sum(0)
    by_line = (dots * samples.weight_x).sum(1)
    grad_weights = (by_column * samples.weight_x).sum(0)
    grad_x = weights * (by_column * samples.slope_x).sum(0)
    grad_y = weights * (by_line * samples.slope_y).sum(0)
    if softmax:
        grad_weights = weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True))
    return grad_table, grad_x, grad_y, grad_weights


class _WeightedRows(torch.autograd.Function):
    """out[b] = sum_j weights[b, j] * table[index[b, j]]; its backward is made of differentiable parts."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(table, index, weights)
        if index.numel() == 0 or table.numel() == 0:
            return table.new_zeros(index.shape[0], table.shape[1])
        if table.device.type in ("cpu", "cuda"):
            # one fused pass; gathering the rows first would move 2 * J times the output's bytes
            return F.embedding_bag(index, table, mode="sum", per_sample_weights=weights)
        parts = [
            torch.bmm(w.unsqueeze(1), table.index_select(0, i.flatten()).view(*i.shape, -1)).squeeze(1)
            for i, w in _chunks(table.shape[1], index, weights)
        ]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        table, index, weights = ctx.saved_tensors
        grad_table = _scatter_rows(grad, index, weights, table.shape[0]) if ctx.needs_input_grad[0] else None
        grad_weights = _row_dots(grad, table, index) if ctx.needs_input_grad[2] else None
        return grad_table, None, grad_weights


def _chunks(channels: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yields the tensors in slices whose gathered rows stay below CHUNK_ELEMENTS."""
    rows, terms = tensors[-1].shape[0], tensors[-1].shape[1]
    limit = CHUNK_ELEMENTS.get(tensors[0].device.type, CHUNK_ELEMENTS_ELSEWHERE)
    step = max(1, limit // max(1, channels * terms))
    for start in range(0, rows, step):
        yield tuple(t[start : start + step] for t in tensors)


def _row_dots(grad: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """Returns dots[b, j] = <grad[b], table[index[b, j]]>."""
    if index.numel() == 0 or table.numel() == 0:
        return grad.new_zeros(index.shape)
    parts = [
        torch.bmm(table.index_select(0, i.flatten()).view(*i.shape, -1), g.unsqueeze(2)).squeeze(2)
        for g, i in _chunks(table.shape[1], grad, index)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _scatter_rows(grad: Tensor, index: Tensor, weights: Tensor, rows: int) -> Tensor:
    """Returns out[r] = sum over the (b, j) with index[b, j] = r of weights[b, j] * grad[b]."""
    out = grad.new_zeros(rows, grad.shape[1])
    if index.numel() == 0 or rows == 0:
        return out
    for g, i, w in _chunks(grad.shape[1], grad, index, weights):
        out = out.index_add_(0, i.flatten(), (w.unsqueeze(2) * g.unsqueeze(1)).flatten(0, 1))
    return out
