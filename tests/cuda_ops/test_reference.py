"""Pure PyTorch against the formulas, written as loops, and against finite differences, twice."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from vss_ops import reference

from tests.cuda_ops.problems import Attention, Dcn, assert_close, window, with_gradients


def _bilinear(image: Tensor, x: float, y: float) -> Tensor:
    """Samples image [H, W, D], zero outside."""
    total = torch.zeros(image.shape[2], dtype=image.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                total += image[row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
    return total


@pytest.mark.parametrize(
    "problem",
    [
        Dcn(2, 5, 4, window(group=2, group_channels=3)),
        Dcn(1, 6, 9, window((3, 5), stride=(2, 1), padding=(2, 0), dilation=(2, 1), offset_scale=0.7), reach=4.0),
        Dcn(1, 5, 5, window(remove_center=True, group_channels=1), softmax=True),
    ],
    ids=str,
)
def test_dcnv3_is_its_formula(problem: Dcn):
    input, offset, mask = problem.tensors(torch.float64)
    w = problem.window
    N, Ho, Wo, _ = offset.shape
    half_y, half_x = ((d * (k - 1)) // 2 for d, k in zip(w.dilation, w.kernel_size, strict=True))
    points = [(ix, iy) for ix in range(w.kernel_size[1]) for iy in range(w.kernel_size[0])]
    if w.remove_center:
        del points[len(points) // 2]
    offset = offset.view(N, Ho, Wo, w.group, len(points), 2)
    mask = mask.view(N, Ho, Wo, w.group, len(points))
    mask = mask.softmax(-1) if problem.softmax else mask
    images = input.view(*input.shape[:3], w.group, w.group_channels)
    out = torch.zeros(N, Ho, Wo, w.group, w.group_channels, dtype=torch.float64)
    for n, i, j, g, (p, (ix, iy)) in (
        (n, i, j, g, point)
        for n in range(N)
        for i in range(Ho)
        for j in range(Wo)
        for g in range(w.group)
        for point in enumerate(points)
    ):
        dx, dy = offset[n, i, j, g, p].tolist()
        x = j * w.stride[1] + half_x - w.padding[1] + (ix * w.dilation[1] - half_x + dx) * w.offset_scale
        y = i * w.stride[0] + half_y - w.padding[0] + (iy * w.dilation[0] - half_y + dy) * w.offset_scale
        out[n, i, j, g] += mask[n, i, j, g, p] * _bilinear(images[n, :, :, g], x, y)
    assert_close([problem.exact(input, offset.flatten(3), problem.tensors(torch.float64)[2])], [out.flatten(3)], 1e-13)


@pytest.mark.parametrize("softmax", [False, True])
def test_ms_deform_attn_is_its_formula(softmax: bool):
    problem = Attention(2, 3, 2, 4, 3, ((1, 1), (3, 5)), softmax=softmax)
    value, locations, weights = problem.tensors(torch.float64)
    shapes, starts = problem.levels()
    scaled = weights.flatten(3).softmax(-1).view_as(weights) if softmax else weights
    out = torch.zeros(2, 3, 2, 4, dtype=torch.float64)
    for n, q, m, level, p in torch.cartesian_prod(*map(torch.arange, (2, 3, 2, 2, 3))).tolist():
        height, width = shapes[level].tolist()
        start = int(starts[level])
        image = value[n, start : start + height * width, m].view(height, width, -1)
        x, y = (locations[n, q, m, level, p] * torch.tensor([width, height]) - 0.5).tolist()
        out[n, q, m] += scaled[n, q, m, level, p] * _bilinear(image, x, y)
    assert_close([problem.exact(value, locations, weights)], [out.flatten(2)], 1e-13)


DCN = Dcn(1, 3, 4, window(group=2, group_channels=2, padding=1), softmax=True)
ATTENTION = Attention(1, 2, 2, 2, 2, ((2, 3), (1, 2)), softmax=True)


@pytest.mark.parametrize("problem", [DCN, ATTENTION], ids=["dcnv3", "ms_deform_attn"])
def test_is_differentiable_twice(problem: Dcn | Attention):
    leaves = [t.requires_grad_() for t in problem.tensors(torch.float64)]
    assert gradcheck(problem.exact, leaves, fast_mode=True)
    assert gradgradcheck(problem.exact, leaves, fast_mode=True)


@pytest.mark.parametrize("problem", [DCN, ATTENTION], ids=["dcnv3", "ms_deform_attn"])
def test_written_out_backward_is_that_of_autograd(problem: Dcn | Attention):
    tensors = problem.tensors(torch.float64)
    out, *expected = with_gradients(problem.exact, tensors)
    seed = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).reshape(out.shape)
    if isinstance(problem, Dcn):
        grads = reference.dcnv3_backward(seed, *tensors, problem.window, problem.softmax)
    else:
        value, *points = tensors
        grads = reference.ms_deform_attn_backward(seed, value, *problem.levels(), *points, problem.softmax)
    assert_close(list(grads), expected, 1e-12)


def test_backward_in_small_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch):
    tensors = Dcn(1, 6, 7, DCN.window).tensors(torch.float64)
    seed = torch.ones(1, 6, 7, 4, dtype=torch.float64)
    whole = reference.dcnv3_backward(seed, *tensors, DCN.window)
    monkeypatch.setitem(reference.CHUNK_ELEMENTS, "cpu", 200)
    assert_close(list(reference.dcnv3_backward(seed, *tensors, DCN.window)), list(whole), 1e-13)


class _OnTheHost(TorchDispatchMode):
    """Notes the operators that take or return a tensor in host memory."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(isinstance(t, Tensor) and t.device.type == "cpu" for t in tree_leaves((args, kwargs, out))):
            self.seen.append(str(func))
        return out


@pytest.mark.parametrize(
    "problem", [DCN, Dcn(1, 5, 5, window(remove_center=True, group_channels=2)), ATTENTION], ids=str
)
def test_nothing_comes_from_the_host(problem: Dcn | Attention):
    """A copy from the host waits for the device and cannot be captured; seen on tensors without data."""
    shapes = [t.shape for t in problem.tensors(torch.float32)]
    levels = [t.shape for t in problem.levels()] if isinstance(problem, Attention) else []
    with FakeTensorMode(), _OnTheHost() as host:
        table, *points = (torch.empty(s, device="cuda") for s in shapes)
        if isinstance(problem, Dcn):
            out = reference.dcnv3(table, *points, problem.window, True)
            reference.dcnv3_backward(out, table, *points, problem.window, True)
        else:
            arguments = [table, *(torch.empty(s, dtype=torch.long, device="cuda") for s in levels), *points, True]
            out = reference.ms_deform_attn(*arguments)
            reference.ms_deform_attn_backward(out, *arguments)
    assert host.seen == []


@pytest.mark.parametrize("level", [(3, 3, 16), (2, 2, -1), (2**32, 2**32, 0), (-2, -2, 0), (1, 4, 2**63 - 1)], ids=str)
def test_a_level_that_is_not_inside_the_table_reads_as_zero(level: tuple[int, int, int]):
    """As the kernels on a GPU, where nobody can look at the levels before."""
    height, width, start = level
    problem = Attention(2, 5, 2, 3, 4, ((4, 4), (2, 2)), softmax=True)
    value, locations, weights = problem.tensors(torch.float64)  # 20 positions
    shapes, starts = torch.tensor([[4, 4], [height, width]]), torch.tensor([0, start])
    leaves = [t.requires_grad_() for t in (value, locations, weights)]
    out = reference.ms_deform_attn(value, shapes, starts, locations, weights, softmax=True)
    scaled = weights.flatten(3).softmax(-1).view_as(weights)[..., :1, :]
    first = reference.ms_deform_attn(value, shapes[:1], starts[:1], locations[:, :, :, :1], scaled)
    assert_close([out], [first], 1e-13)
    seed = torch.ones_like(out)
    grads = reference.ms_deform_attn_backward(seed, value, shapes, starts, locations, weights, softmax=True)
    assert_close(list(grads), list(torch.autograd.grad(first, leaves, seed)), 1e-12)
