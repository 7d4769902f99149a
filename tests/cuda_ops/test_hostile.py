"""Values and surroundings that a well-behaved caller does not bring: not-a-number weights, autocast in the backward."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import vss_ops
from vss_ops import ops, paths

from tests.cuda_ops.problems import Attention, Dcn, assert_close, window, with_gradients

DCN = Dcn(1, 5, 6, window(group=2, group_channels=4), softmax=True)
ATTENTION = Attention(1, 5, 2, 4, 3, ((2, 3), (4, 5)), softmax=True)
BOTH = pytest.mark.parametrize("problem", [DCN, ATTENTION], ids=["dcnv3", "ms_deform_attn"])

# The table lies between two pages that must not be touched; reading them ends the process.
GUARDED = """
import ctypes, mmap
import torch
import vss_ops

torch.set_num_threads(1)
libc = ctypes.CDLL(None, use_errno=True)
memory = mmap.mmap(-1, 3 * mmap.PAGESIZE)
base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
for page in (0, 2):
    assert libc.mprotect(ctypes.c_void_p(base + page * mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
floats = mmap.PAGESIZE // 4
middle = torch.frombuffer(memory, dtype=torch.float32, offset=mmap.PAGESIZE, count=floats)
middle.fill_(1)


def dcnv3(table, weight):
    height, width = table.shape[1:3]
    offset = torch.randn(1, height, width, 18, generator=torch.Generator().manual_seed(0)) * 3
    offset[0, :, :, :2] = -2  # a corner outside for every pixel of the border
    offset[0, 0, 0] = float("nan")
    mask = torch.full((1, height, width, 9), weight)
    kernel = dict(kernel_size=3, stride=1, padding=1, dilation=1, group=1, group_channels=16, offset_scale=1.0)
    return vss_ops.dcnv3(table, offset, mask, **kernel)


def attention(value, weight):
    shapes, starts = torch.tensor([[8, 8], [0, 3], [0, 0]]), torch.tensor([0, 64, 64])  # two empty levels at the end
    generator = torch.Generator().manual_seed(0)
    locations = torch.rand(1, 50, 1, 3, 4, 2, generator=generator) * 1.6 - 0.3
    return vss_ops.ms_deform_attn(value, shapes, starts, locations, torch.full((1, 50, 1, 3, 4), weight))


with vss_ops.backend("cpp"):
    for weight in (1.0, float("nan"), float("inf")):
        for run, table in ((dcnv3, middle.view(1, 8, 8, 16)), (attention, middle.view(1, 64, 1, 16))):
            table = table.detach().requires_grad_()
            assert table.data_ptr() == base + mmap.PAGESIZE
            out = run(table, weight)
            out.sum().backward()
            assert bool(out.isnan().any()) == (weight != 1.0)
print("unharmed")
"""


def test_weights_that_are_not_numbers_read_nothing_outside_the_table(cpp_kernels: None, tmp_path: Path):
    script = tmp_path / "guarded.py"
    script.write_text(GUARDED)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "unharmed\n", "")


@BOTH
def test_backward_under_autocast_is_not_rounded(path: str, device: str, problem: Dcn | Attention):
    leaves = [t.requires_grad_() for t in problem.tensors(torch.float32, device)]
    out = problem.run(*leaves)
    first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
    again = sum(g.square().sum() for g in first)
    second = torch.autograd.grad(again, leaves, retain_graph=True)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert_close(list(torch.autograd.grad(out.square().sum(), leaves, retain_graph=True)), list(first), 1e-5)
        assert_close(list(torch.autograd.grad(again, leaves)), list(second), 1e-5)


@pytest.mark.parametrize("surroundings", [torch.inference_mode, lambda: torch.device("meta"), torch.no_grad])
def test_self_check_does_not_mind_where_it_is_called(path: str, device: str, surroundings):
    with surroundings():
        assert vss_ops.self_check(device) == path


@BOTH
def test_runs_in_inference_mode(path: str, device: str, problem: Dcn | Attention):
    tensors = problem.tensors(torch.float32, device)
    with torch.inference_mode():
        out = problem.run(*tensors)
    assert_close([out], [problem.run(*tensors)], 0.0)


@pytest.mark.parametrize("shape", [(1, 26, 0, 4), (1, 26, 2, 0)], ids=str)
def test_no_heads_or_channels_are_refused(path: str, device: str, shape: tuple[int, ...]):
    value = torch.zeros(shape, device=device)
    locations = torch.zeros(1, 3, shape[2], 2, 3, 2, device=device)
    levels = (torch.tensor([[2, 3], [4, 5]], device=device), torch.tensor([0, 6], device=device))
    with pytest.raises(ValueError, match="value must be"):
        vss_ops.ms_deform_attn(value, *levels, locations, locations[..., 0])


@pytest.mark.parametrize("weight", [1.0, float("nan")])
def test_an_empty_image_reads_as_zero(path: str, device: str, weight: float):
    kernel = window(padding=2)
    Ho, Wo = kernel.output_size(0, 7)
    assert (Ho, Wo) == (2, 9)
    tensors = [torch.zeros(1, 0, 7, 16), torch.zeros(1, Ho, Wo, 36), torch.full((1, Ho, Wo, 18), weight)]
    out, grad_input, _, grad_mask = with_gradients(Dcn(1, 0, 7, kernel).run, [t.to(device) for t in tensors])
    assert out.shape == (1, Ho, Wo, 16) and grad_input.shape == (1, 0, 7, 16)
    assert not out.any() and not grad_mask.any()


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_offset_scale_must_be_finite(scale: float):
    with pytest.raises(ValueError, match="offset_scale must be finite"):
        Dcn(1, 5, 6, window(offset_scale=scale)).run(*DCN.tensors(torch.float32))


@BOTH
def test_deterministic_algorithms_do_without_atomics(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, problem: Dcn | Attention
):
    """As if on a GPU: with kernels whose sums depend on the order of threads, backward is left to pure PyTorch."""
    ran = []
    monkeypatch.setattr(paths, "_logged", set())
    monkeypatch.setattr(paths, "path_for", lambda device, dtype: "cuda")
    for name in ("dcnv3", "ms_deform_attn"):
        forward = getattr(ops.reference, name)
        monkeypatch.setattr(ops.compiled, name, lambda *a, f=forward: ran.append("forward") or f(*a))
        backward = getattr(ops.reference, f"{name}_backward")
        monkeypatch.setattr(ops.compiled, f"{name}_backward", lambda *a, f=backward: ran.append("backward") or f(*a))
    tensors = problem.tensors(torch.float32)
    with_gradients(problem.run, tensors)
    assert ran == ["forward", "backward"]
    assert caplog.records == []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            with_gradients(problem.run, tensors)
    finally:
        torch.use_deterministic_algorithms(False)
    assert ran == ["forward", "backward", "forward", "forward"]
    assert len(caplog.records) == 1 and "backward passes on CUDA run pure PyTorch" in caplog.text


@pytest.mark.long
@pytest.mark.large
@pytest.mark.parametrize("op", ["dcnv3", "ms_deform_attn"])
def test_tables_of_more_than_2_to_the_31_elements(cpp_kernels: None, op: str):
    """One pixel is 1, the last but one row and column: what lies beyond 2^31 elements is read where it is.

    The table is zero pages that are never written: gigabytes of addresses, next to no memory.
    """
    side, channels = 8192, 40
    table = torch.zeros(1, side, side, channels)
    table[0, side - 2, side - 2] = 1
    assert ((side - 2) * side + side - 2) * channels > 2**31
    with vss_ops.backend("cpp"), torch.no_grad():
        if op == "dcnv3":
            numbers = dict(kernel_size=1, stride=2, padding=0, dilation=1, group=1, group_channels=channels)
            corner = table[:, side - 4 :, side - 4 :]
            small = vss_ops.dcnv3(corner.contiguous(), *_points(2), offset_scale=1.0, **numbers)
            big = vss_ops.dcnv3(table, *_points(side // 2), offset_scale=1.0, **numbers)[:, -2:, -2:]
            torch.testing.assert_close(big, small)
            assert big.sum() == channels
        else:
            shapes, starts = torch.tensor([[side, side]]), torch.tensor([0])
            where = torch.full((1, 1, 1, 1, 1, 2), (side - 2 + 0.5) / side)
            out = vss_ops.ms_deform_attn(
                table.view(1, -1, 1, channels), shapes, starts, where, torch.ones(1, 1, 1, 1, 1)
            )
            assert out.sum() == channels


@pytest.mark.gpu
def test_values_of_more_than_2_to_the_31_elements_on_a_gpu(cuda_kernels: None):
    """Queries look at the last positions alone; the first of these begins behind 2^31 elements."""
    if torch.cuda.mem_get_info()[0] < 40e9:
        pytest.skip("needs 40 GB of free GPU memory")
    side, heads, channels = 2920, 8, 32
    first = side - 40  # line
    assert first * side * heads * channels > 2**31
    value = torch.zeros(1, side * side, heads, channels, dtype=torch.bfloat16, device="cuda")
    small = torch.randn(1, 40 * side, heads, channels, device="cuda").bfloat16()
    value[:, first * side :] = small
    weights = torch.randn(1, 500, heads, 1, 4, device="cuda")
    x, y = torch.rand(2, *weights.shape, device="cuda", dtype=torch.float64)
    # lines within the small level, and away from whole pixels, where gradients jump: a location is off by 2^-24 of the
    # image's height, 2e-4 pixels
    y = torch.floor(1 + 37 * y) + 0.1 + 0.8 * (370 * y).frac()
    inside = torch.stack((x, (y + 0.5) / 40), -1).float()
    far = torch.stack((x, (first + y + 0.5) / side), -1).float()

    def run(table: torch.Tensor, lines: int, where: torch.Tensor) -> list[torch.Tensor]:
        levels = torch.tensor([[lines, side]], device="cuda"), torch.tensor([0], device="cuda")
        leaves = [t.requires_grad_() for t in (table, where, weights)]
        out = vss_ops.ms_deform_attn(leaves[0], *levels, *leaves[1:], softmax=True)
        return [out.detach(), *torch.autograd.grad(out.float().square().sum(), leaves)]

    with vss_ops.backend("cuda"):
        expected = run(small, 40, inside)
        out, grad_value, grad_locations, grad_weights = run(value, side, far)
    assert not grad_value[:, : first * side].any()
    scale = torch.tensor([1.0, 40 / side], device="cuda")
    results = [out, grad_value[:, first * side :], grad_locations * scale, grad_weights]
    assert_close(results, expected, 3e-2)


def _points(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(1, side, side, 2), torch.ones(1, side, side, 1)


@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan"), 300.0, -300.0])
@pytest.mark.parametrize("whole_row", [False, True])
def test_a_softmax_of_what_is_not_finite_is_torch_s(cpp_kernels: None, bad: float, whole_row: bool):
    input, offset, mask = DCN.tensors(torch.float32)
    mask[0, 0, 0, : DCN.window.points if whole_row else 1] = bad
    results = {}
    for path in ("cpp", "reference"):
        logits = mask.clone().requires_grad_()
        with vss_ops.backend(path):
            out = DCN.run(input, offset, logits)
            out.nansum().backward()
        results[path] = out.detach(), logits.grad
    for found, expected in zip(*results.values(), strict=True):
        torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-5, atol=2e-6)
