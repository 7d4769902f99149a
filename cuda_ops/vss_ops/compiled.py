"""Calls of the compiled kernels: allocates their outputs and converts arguments to the dtypes they take.

The CPU kernels take float32 and float64; half precision goes through float32. The CUDA kernels take float32, float16
and bfloat16 tables with coordinates and weights of the same dtype or of float32, and accumulate in float32. Both fold
the softmax in and take dense tensors.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from vss_ops.checks import HALF
from vss_ops.geometry import Window


def dcnv3(input: Tensor, offset: Tensor, mask: Tensor, window: Window, softmax: bool) -> Tensor:
    """Computes `reference.dcnv3` with the kernels of the tensors' device."""
    call = _Call(input, offset, mask)
    out = call.table.new_empty(*offset.shape[:3], input.shape[3])
    with _device(input):
        torch.ops.vss_ops.dcnv3_forward_out(call.table, call.coordinates, call.weights, *window, softmax, out)
    return out.to(input.dtype)


def dcnv3_backward(
    grad: Tensor, input: Tensor, offset: Tensor, mask: Tensor, window: Window, softmax: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes `reference.dcnv3_backward` with the kernels of the tensors' device."""
    call = _Call(input, offset, mask)
    grads = call.empty_grads()
    with _device(input):
        torch.ops.vss_ops.dcnv3_backward_out(
            call.dense(grad),
            call.table,
            call.coordinates,
            call.weights,
            *window,
            softmax,
            *grads,
        )
    return call.finished(*grads)


def ms_deform_attn(
    value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor, softmax: bool
) -> Tensor:
    """Computes `reference.ms_deform_attn` with the kernels of the tensors' device."""
    N, Q, M = locations.shape[:3]
    call = _Call(value, locations, weights)
    out = call.table.new_empty(N, Q, M * value.shape[3])
    with _device(value):
        torch.ops.vss_ops.ms_deform_attn_forward_out(
            call.table, *_levels(value, shapes, starts), call.coordinates, call.weights, softmax, out
        )
    return out.to(value.dtype)


def ms_deform_attn_backward(
    grad: Tensor, value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor, softmax: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes `reference.ms_deform_attn_backward` with the kernels of the tensors' device."""
    call = _Call(value, locations, weights)
    grads = call.empty_grads()
    with _device(value):
        torch.ops.vss_ops.ms_deform_attn_backward_out(
            call.dense(grad),
            call.table,
            *_levels(value, shapes, starts),
            call.coordinates,
            call.weights,
            softmax,
            *grads,
        )
    return call.finished(*grads)


class _Call:
    """The three float arguments as the kernels of their device take them, and the way back for gradients."""

    def __init__(self, table: Tensor, coordinates: Tensor, weights: Tensor) -> None:
        self.given = (table, coordinates, weights)
        if not table.is_cuda:
            dtype = torch.float64 if table.dtype == torch.float64 else torch.float32
            table_dtype = dtype
        else:
            table_dtype = table.dtype
            same = coordinates.dtype == weights.dtype == table.dtype
            dtype = table.dtype if same and table.dtype in HALF else torch.float32
        self.table = table.to(table_dtype).contiguous()
        self.coordinates = coordinates.to(dtype).contiguous()
        self.weights = weights.to(dtype).contiguous()

    def dense(self, grad: Tensor) -> Tensor:
        return grad.to(self.table.dtype).contiguous()

    def empty_grads(self) -> tuple[Tensor, Tensor, Tensor]:
        # a table row collects many samples, so its gradient is summed in float32 and rounded once, at the end
        dtype = torch.float32 if self.table.dtype in HALF else self.table.dtype
        table = torch.zeros(self.table.shape, dtype=dtype, device=self.table.device)
        return table, *(t.new_empty(t.shape) for t in (self.coordinates, self.weights))

    def finished(self, table: Tensor, coordinates: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grads = zip((table, coordinates, weights), self.given, strict=True)
        return tuple(grad.reshape(tensor.shape).to(tensor.dtype) for grad, tensor in grads)


def _levels(value: Tensor, shapes: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(t.to(device=value.device, dtype=torch.int64).contiguous() for t in (shapes, starts))


def _device(tensor: Tensor) -> AbstractContextManager:
    """The kernels launch on the current device, which need not be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
