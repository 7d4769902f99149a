"""The two ops as torch operators: schema, shapes without data, autograd, autocast, and the choice of implementation.

`torch.ops.vss_ops.dcnv3` and `torch.ops.vss_ops.ms_deform_attn` are opaque to torch.compile and one kernel per call to
everything else. Their backward passes are operators too, themselves differentiable (through vss_ops.reference).

Autocast: the table (`input`, `value`) is cast to the autocast dtype, and so is the result. `offset`, `mask`,
`sampling_locations` and `attention_weights` keep the dtype they come in: a bfloat16 location has 8 bits, less than a
pixel on an image wider than 256, so keeping them in float32 is the caller's choice to make. float64 is left alone.

`torch.export` records what vss_ops.reference computes, not the operators: a graph that was exported runs where this
package is not installed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from vss_ops import checks, compiled, paths, reference
from vss_ops.geometry import Window, pair

_Gradients = tuple[Tensor, Tensor, Tensor]

_WINDOW = (
    "int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, int group, int group_channels, "
    "float offset_scale, bool remove_center, bool softmax"
)
_DCN = f"Tensor input, Tensor offset, Tensor mask, {_WINDOW}"
_ATTENTION = (
    "Tensor value, Tensor spatial_shapes, Tensor level_start_index, Tensor sampling_locations, "
    "Tensor attention_weights, bool softmax"
)
_GRADS = "Tensor(a!) grad_table, Tensor(b!) grad_coordinates, Tensor(c!) grad_weights"
_LEVELS = "Tensor spatial_shapes, Tensor level_start_index"

_library = torch.library.Library("vss_ops", "DEF")
_library.define(f"dcnv3({_DCN}) -> Tensor")
_library.define(f"dcnv3_backward(Tensor grad, {_DCN}) -> (Tensor, Tensor, Tensor)")
_library.define(f"ms_deform_attn({_ATTENTION}) -> Tensor")
_library.define(f"ms_deform_attn_backward(Tensor grad, {_ATTENTION}) -> (Tensor, Tensor, Tensor)")
# implemented by the compiled libraries alone, called by vss_ops.compiled alone
_library.define(f"dcnv3_forward_out({_DCN}, Tensor(a!) out) -> ()")
_library.define(f"dcnv3_backward_out(Tensor grad, {_DCN}, {_GRADS}) -> ()")
_library.define(
    f"ms_deform_attn_forward_out(Tensor value, {_LEVELS}, Tensor locations, Tensor weights, bool softmax, "
    "Tensor(a!) out) -> ()"
)
_library.define(
    f"ms_deform_attn_backward_out(Tensor grad, Tensor value, {_LEVELS}, Tensor locations, Tensor weights, "
    f"bool softmax, {_GRADS}) -> ()"
)


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
    """Computes the core operator of DCNv3 (InternImage, arXiv 2211.05778, equation 2).

    For output pixel (i, j) and kernel point (ix, iy), with h = dilation * (kernel - 1) // 2, the sample lies at
    x = j * stride + h - padding + (ix * dilation - h + offset_x) * offset_scale, pixel centres at integers, and y
    likewise; it is bilinear and zero outside. A group's output is the sum of mask * sample over its points.

    Args:
        input: [N, H, W, group * group_channels], channels last; float32, float64, float16 or bfloat16.
        offset: [N, Ho, Wo, group * P * 2], (x, y) pairs, kernel points x-major (index = ix * kernel_h + iy);
            P = kernel_h * kernel_w - remove_center. float32 is allowed with a half precision input.
        mask: [N, Ho, Wo, group * P], weight of every point; logits when `softmax` is set. Dtypes as offset.
        kernel_size, stride, padding, dilation: int or (height, width).
        group: number of groups; every group has offsets and mask of its own.
        group_channels: channels of a group; multiples of 8 are fast in half precision, of 4 in float32.
        offset_scale: multiplies the kernel grid as well as the offsets, as in the published code.
        remove_center: leave out the middle point of the kernel.
        softmax: apply a softmax over the P points of every group first, in float32 and in the same kernel on a GPU.

    Returns:
        [N, Ho, Wo, group * group_channels] in the dtype of `input` (under autocast: the autocast dtype).

    Raises:
        TypeError: an argument is no tensor, or its dtype is not allowed.
        ValueError: a shape, device or number is not allowed. Both name the argument.
    """
    checks.check_tensors("dcnv3", input=input, offset=offset, mask=mask)
    if torch.compiler.is_exporting():
        sizes = (pair("kernel_size", kernel_size), pair("stride", stride), pair("padding", padding))
        window = Window(*sizes, pair("dilation", dilation), group, group_channels, float(offset_scale), remove_center)
        return reference.dcnv3(input, offset, mask, window, softmax)
    return torch.ops.vss_ops.dcnv3(
        input,
        offset,
        mask,
        pair("kernel_size", kernel_size),
        pair("stride", stride),
        pair("padding", padding),
        pair("dilation", dilation),
        group,
        group_channels,
        float(offset_scale),
        remove_center,
        softmax,
    )


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    softmax: bool = False,
) -> Tensor:
    """Computes multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, equation 3).

    Args:
        value: [N, S, M, D], levels concatenated, row-major within a level; float32, float64, float16 or bfloat16.
        spatial_shapes: int64 or int32 [L, 2], (height, width) of every level. On the device of `value`: nothing is
            copied or waited for; levels that do not fit into `value` read as zero there, and raise on the CPU.
        level_start_index: int64 or int32 [L], first position of every level in `value`.
        sampling_locations: [N, Q, M, L, P, 2], (x, y) in units of the level: pixel = location * size - 0.5; samples
            are bilinear and zero outside. float32 is allowed with a half precision value.
        attention_weights: [N, Q, M, L, P]; logits when `softmax` is set. Dtypes as sampling_locations.
        softmax: apply a softmax over the L * P points of every head first.

    Returns:
        [N, Q, M * D] in the dtype of `value` (under autocast: the autocast dtype).

    Raises:
        TypeError: an argument is no tensor, or its dtype is not allowed.
        ValueError: a shape, device or number is not allowed. Both name the argument.
    """
    checks.check_tensors(
        "ms_deform_attn",
        value=value,
        spatial_shapes=spatial_shapes,
        level_start_index=level_start_index,
        sampling_locations=sampling_locations,
        attention_weights=attention_weights,
    )
    if torch.compiler.is_exporting():
        return reference.ms_deform_attn(
            value, spatial_shapes, level_start_index, sampling_locations, attention_weights, softmax
        )
    return torch.ops.vss_ops.ms_deform_attn(
        value, spatial_shapes, level_start_index, sampling_locations, attention_weights, softmax
    )


def _window(arguments: Sequence) -> tuple[Window, bool]:
    *numbers, softmax = arguments
    sizes = (tuple(size) for size in numbers[:4])
    return Window(*sizes, *numbers[4:]), softmax


def _implementation(table: Tensor, *, backward: bool = False) -> ModuleType:
    path = paths.path_for(table.device, table.dtype)
    if path == "reference" or table.numel() == 0:  # kernels need a row they may read
        return reference
    if path == "cuda" and backward and torch.are_deterministic_algorithms_enabled():
        paths.log_once(
            "deterministic",
            "vss_ops: torch.use_deterministic_algorithms is set: backward passes on CUDA run pure PyTorch, slower, "
            "since the kernels add in the order in which threads arrive",
        )
        return reference
    return compiled


def _without_autocast(table: Tensor) -> AbstractContextManager:
    """Autograd runs under the caller's autocast, which would round the matrix products of the reference."""
    device_type = table.device.type
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()


@torch.library.impl(_library, "dcnv3", "CompositeExplicitAutograd")
def _dcnv3(input: Tensor, offset: Tensor, mask: Tensor, *arguments: Any) -> Tensor:
    window, softmax = _window(arguments)
    checks.check_dcnv3(input, offset, mask, window)
    return _implementation(input).dcnv3(input, offset, mask, window, softmax)


@torch.library.impl(_library, "dcnv3_backward", "CompositeExplicitAutograd")
def _dcnv3_backward(grad: Tensor, input: Tensor, offset: Tensor, mask: Tensor, *arguments: Any) -> _Gradients:
    window, softmax = _window(arguments)
    checks.check_dcnv3(input, offset, mask, window)
    with _without_autocast(input):
        return _implementation(input, backward=True).dcnv3_backward(grad, input, offset, mask, window, softmax)


@torch.library.impl(_library, "ms_deform_attn", "CompositeExplicitAutograd")
def _ms_deform_attn(
    value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor, softmax: bool
) -> Tensor:
    checks.check_ms_deform_attn(value, shapes, starts, locations, weights)
    if shapes.device.type == "cpu" and starts.device.type == "cpu":
        checks.check_levels(value, shapes, starts)
    return _implementation(value).ms_deform_attn(value, shapes, starts, locations, weights, softmax)


@torch.library.impl(_library, "ms_deform_attn_backward", "CompositeExplicitAutograd")
def _ms_deform_attn_backward(grad: Tensor, value: Tensor, *arguments: Any) -> _Gradients:
    checks.check_ms_deform_attn(value, *arguments[:4])
    with _without_autocast(value):
        return _implementation(value, backward=True).ms_deform_attn_backward(grad, value, *arguments)


@torch.library.register_fake("vss_ops::dcnv3", lib=_library)
def _(input: Tensor, offset: Tensor, mask: Tensor, *arguments: Any) -> Tensor:
    checks.check_dcnv3(input, offset, mask, _window(arguments)[0])
    return input.new_empty(*offset.shape[:3], input.shape[3])


@torch.library.register_fake("vss_ops::ms_deform_attn", lib=_library)
def _(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor, softmax: bool) -> Tensor:
    checks.check_ms_deform_attn(value, shapes, starts, locations, weights)
    return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


@torch.library.register_fake("vss_ops::dcnv3_backward", lib=_library)
def _(grad: Tensor, input: Tensor, offset: Tensor, mask: Tensor, *arguments: Any) -> _Gradients:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (input, offset, mask))


@torch.library.register_fake("vss_ops::ms_deform_attn_backward", lib=_library)
def _(
    grad: Tensor, value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor, softmax: bool
) -> _Gradients:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (value, locations, weights))


def _save(tensors: int) -> Callable:
    """Saves the first `tensors` inputs for the backward pass and keeps the numbers that follow them."""

    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        ctx.save_for_backward(*inputs[:tensors])
        ctx.numbers = inputs[tensors:]

    return setup_context


def _dcnv3_gradient(ctx: Any, grad: Tensor) -> tuple:
    grads = torch.ops.vss_ops.dcnv3_backward(grad, *ctx.saved_tensors, *ctx.numbers)
    return *grads, *(None for _ in ctx.numbers)


def _ms_deform_attn_gradient(ctx: Any, grad: Tensor) -> tuple:
    value, locations, weights = torch.ops.vss_ops.ms_deform_attn_backward(grad, *ctx.saved_tensors, *ctx.numbers)
    return value, None, None, locations, weights, None


def _second_gradient(
    forward: Callable[..., Tensor], tensors: Sequence[Tensor], differentiable: Sequence[int], seeds: Sequence
) -> tuple[Tensor, ...]:
    """Differentiates the backward pass: gradients for (grad, *differentiable inputs) through the reference."""
    with torch.enable_grad(), _without_autocast(tensors[0]):
        grad, *inputs = (t.detach() for t in tensors)
        grad.requires_grad_()
        leaves = [inputs[i].requires_grad_() for i in differentiable]
        first = torch.autograd.grad(forward(*inputs), leaves, grad, create_graph=True)
        return torch.autograd.grad(first, (grad, *leaves), seeds, allow_unused=True)


def _dcnv3_second_gradient(ctx: Any, *seeds: Tensor | None) -> tuple:
    window, softmax = _window(ctx.numbers)

    def forward(input: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return reference.dcnv3(input, offset, mask, window, softmax)

    grads = _second_gradient(forward, ctx.saved_tensors, (0, 1, 2), seeds)
    return *grads, *(None for _ in ctx.numbers)


def _ms_deform_attn_second_gradient(ctx: Any, *seeds: Tensor | None) -> tuple:
    def forward(*tensors: Any) -> Tensor:
        return reference.ms_deform_attn(*tensors, *ctx.numbers)

    grad, value, locations, weights = _second_gradient(forward, ctx.saved_tensors, (0, 3, 4), seeds)
    return grad, value, None, None, locations, weights, None


def _register_autograd(name: str, gradient: Callable, tensors: int) -> None:
    torch.library.register_autograd(f"vss_ops::{name}", gradient, setup_context=_save(tensors), lib=_library)


_register_autograd("dcnv3", _dcnv3_gradient, 3)
_register_autograd("dcnv3_backward", _dcnv3_second_gradient, 4)
_register_autograd("ms_deform_attn", _ms_deform_attn_gradient, 5)
_register_autograd("ms_deform_attn_backward", _ms_deform_attn_second_gradient, 6)


def _register_autocast(name: str, device_type: str, key: str) -> None:
    op = getattr(torch.ops.vss_ops, name).default
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def cast_table(table: Tensor, *arguments: Any) -> Tensor:
        if table.dtype != torch.float64:
            table = table.to(torch.get_autocast_dtype(device_type))
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return op(table, *arguments)

    _library.impl(name, cast_table, key)


for _name in ("dcnv3", "ms_deform_attn"):
    _register_autocast(_name, "cpu", "AutocastCPU")
    _register_autocast(_name, "cuda", "AutocastCUDA")
