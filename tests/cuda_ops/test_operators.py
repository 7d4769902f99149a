"""The ops as torch operators: opcheck, gradients, torch.compile, autocast, DDP, and what they refuse."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import vss_ops
from torch.autograd import gradcheck, gradgradcheck

from tests.cuda_ops.problems import Attention, Dcn, assert_close, window, with_gradients

DCN = Dcn(2, 5, 6, window(group=2, group_channels=4), softmax=True)
ATTENTION = Attention(2, 5, 2, 4, 3, ((2, 3), (4, 5)), softmax=True)
BOTH = pytest.mark.parametrize("problem", [DCN, ATTENTION], ids=["dcnv3", "ms_deform_attn"])


@BOTH
def test_opcheck(path: str, device: str, problem: Dcn | Attention):
    table, *points = (t.requires_grad_() for t in problem.tensors(torch.float32, device))
    if isinstance(problem, Dcn):
        op = torch.ops.vss_ops.dcnv3.default
        arguments = (table, *points, *problem.window[:6], problem.window.offset_scale, False, True)
    else:
        op = torch.ops.vss_ops.ms_deform_attn.default
        arguments = (table, *problem.levels(device), *points, True)
    torch.library.opcheck(op, arguments)
    out = op(*arguments).detach()
    backward = (
        torch.ops.vss_ops.dcnv3_backward if isinstance(problem, Dcn) else torch.ops.vss_ops.ms_deform_attn_backward
    )
    torch.library.opcheck(backward.default, (out, *arguments), test_utils=("test_schema", "test_faketensor"))


@BOTH
def test_gradcheck(path: str, device: str, problem: Dcn | Attention):
    leaves = [t.requires_grad_() for t in problem.tensors(torch.float64, device)]
    assert gradcheck(problem.run, leaves, fast_mode=True)
    assert gradgradcheck(problem.run, leaves, fast_mode=True)


@BOTH
def test_compiles_without_graph_breaks(path: str, device: str, problem: Dcn | Attention):
    def block(*tensors: torch.Tensor) -> torch.Tensor:
        return torch.relu(problem.run(*tensors)) * 2

    tensors = problem.tensors(torch.float32, device)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=True)
    assert_close(with_gradients(compiled, tensors), with_gradients(block, tensors), 1e-6)


@BOTH
def test_autocast_casts_the_table_and_keeps_the_points(path: str, device: str, problem: Dcn | Attention):
    tensors = problem.tensors(torch.float32, device)
    rounded = [tensors[0].bfloat16(), *tensors[1:]]
    with torch.autocast(device, dtype=torch.bfloat16):
        out, *grads = with_gradients(problem.run, tensors)
    assert out.dtype == torch.bfloat16
    assert [g.dtype for g in grads] == [torch.float32] * 3
    assert_close([out], [problem.run(*rounded)], 0.0)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert problem.run(*problem.tensors(torch.float64, device)).dtype == torch.float64


@BOTH
def test_shapes_without_data(problem: Dcn | Attention):
    tensors = problem.tensors(torch.float16, "meta")
    out = problem.run(*tensors)
    assert out.is_meta and out.dtype == torch.float16
    assert out.shape == problem.exact(*problem.tensors(torch.float32)).shape


def test_trains_under_ddp(path: str, device: str, tmp_path: Path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        layer = torch.nn.Linear(8, 8).to(device)
        model = torch.nn.parallel.DistributedDataParallel(_Sampled(layer))
        tensors = DCN.tensors(torch.float32, device)
        model(*tensors).sum().backward()
        assert layer.weight.grad.abs().sum() > 0
        # A thread of gloo's puts the exchange away, for which it wants the interpreter. The group's end, which holds
        # the interpreter, waits for that thread: for ever, where it comes first (seen once).
        time.sleep(0.2)
        del model
    finally:
        torch.distributed.destroy_process_group()


class _Sampled(torch.nn.Module):
    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return DCN.run(self.layer(input), offset, mask)


@pytest.mark.gpu
@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_runs_in_a_cuda_graph(cuda_kernels: None, problem: Dcn | Attention, dtype: torch.dtype):
    """Forward and backward, captured once and replayed on other numbers; points are float32, as under autocast."""
    table, *points = problem.tensors(torch.float32, "cuda")
    tensors = [table.to(dtype), *points]
    levels = problem.levels("cuda") if isinstance(problem, Attention) else ()  # copies to a device cannot be captured
    run = problem.run if not levels else lambda v, p, w: vss_ops.ms_deform_attn(v, *levels, p, w, softmax=True)
    with vss_ops.backend("cuda"):
        leaves = [t.clone().requires_grad_() for t in tensors]

        def step() -> list[torch.Tensor]:
            out = run(*leaves)
            return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]

        stream = torch.cuda.Stream()  # what is allocated on first use must be there before the capture
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
        with torch.no_grad():
            for leaf in leaves:
                leaf.mul_(0.5)
        graph.replay()
        # atomics add in another order, and the table's gradient is then rounded to its dtype
        assert_close(captured, step(), 1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.gpu
@BOTH
def test_runs_on_the_current_stream(cuda_kernels: None, problem: Dcn | Attention):
    """In a side stream that is kept busy: kernels that ran in another one would read what is not there yet."""
    tensors = problem.tensors(torch.float32, "cuda")
    with vss_ops.backend("cuda"):
        expected = with_gradients(problem.run, tensors)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            late = [torch.zeros_like(t) for t in tensors]
            torch.cuda._sleep(20_000_000)
            for to, t in zip(late, tensors, strict=True):
                to.copy_(t)
            results = with_gradients(problem.run, late)
        torch.cuda.current_stream().wait_stream(stream)
        assert_close(results, expected, 1e-5)


GOOD = {
    "kernel_size": 3,
    "stride": 1,
    "padding": 1,
    "dilation": 1,
    "group": 2,
    "group_channels": 4,
    "offset_scale": 1.0,
}


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"input": torch.zeros(1, 5, 5, 9)}, ValueError, "input must be"),
        ({"input": torch.zeros(5, 5, 8)}, ValueError, "input must be"),
        ({"input": torch.zeros(1, 5, 5, 8, dtype=torch.int32)}, TypeError, "input must be float32"),
        ({"input": torch.zeros(1, 2**14, 2**14, 8, device="meta")}, ValueError, "input"),
        ({"offset": torch.zeros(1, 5, 5, 35)}, ValueError, "offset must be"),
        ({"offset": torch.zeros(1, 5, 5, 36, dtype=torch.float64)}, TypeError, "offset must be torch.float32"),
        ({"mask": torch.zeros(1, 4, 5, 18)}, ValueError, "mask must be"),
        ({"mask": torch.zeros(1, 5, 5, 18, device="meta")}, ValueError, "mask is on meta"),
        ({"mask": None}, TypeError, "mask must be a tensor, got NoneType"),
        ({"offset": [0.0]}, TypeError, "offset must be a tensor, got list"),
        ({"kernel_size": 0}, ValueError, "kernel_size"),
        ({"kernel_size": (3, 3, 3)}, ValueError, "kernel_size"),
        ({"kernel_size": 9}, ValueError, "kernel_size"),
        ({"stride": 0}, ValueError, "stride"),
        ({"stride": 2**33}, ValueError, "stride must be at most 134217727"),
        ({"kernel_size": (1, 2**32 + 1)}, ValueError, "kernel_size must be at most"),
        ({"kernel_size": 2**14, "padding": 2**14}, ValueError, "kernel_size 16384 x 16384 has more points"),
        ({"padding": 2**32 + 1}, ValueError, "padding must be at most"),
        ({"padding": 2**14}, ValueError, "padding .* gives 32771 x 32771 pixels per output image"),
        ({"dilation": 2**32 + 1}, ValueError, "dilation must be at most"),
        ({"group": 2**32 + 2}, ValueError, "group must be from 1 to"),
        ({"group_channels": 2**32 + 4}, ValueError, "group_channels must be from 1 to"),
        ({"padding": -1}, ValueError, "padding"),
        ({"dilation": (1, 0)}, ValueError, "dilation"),
        ({"group": 0}, ValueError, "group"),
        ({"kernel_size": 2, "remove_center": True}, ValueError, "remove_center"),
    ],
    ids=str,
)
def test_dcnv3_names_what_is_wrong(path: str, change: dict, error: type[Exception], named: str):
    arguments = {
        "input": torch.zeros(1, 5, 5, 8),
        "offset": torch.zeros(1, 5, 5, 36),
        "mask": torch.zeros(1, 5, 5, 18),
        **GOOD,
        **change,
    }
    if arguments["input"].is_meta:
        arguments |= {name: arguments[name].to("meta") for name in ("offset", "mask")}
    with pytest.raises(error, match=named):
        vss_ops.dcnv3(**arguments)


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"value": torch.zeros(1, 26, 8)}, ValueError, "value must be"),
        ({"value": torch.zeros(1, 26, 2, 4, dtype=torch.long)}, TypeError, "value must be"),
        ({"spatial_shapes": None}, TypeError, "spatial_shapes must be a tensor, got NoneType"),
        ({"spatial_shapes": [[2, 3], [4, 5]]}, TypeError, "spatial_shapes must be a tensor, got list"),
        ({"attention_weights": None}, TypeError, "attention_weights must be a tensor"),
        ({"spatial_shapes": torch.tensor([[2, 3]])}, ValueError, "spatial_shapes must be"),
        ({"spatial_shapes": torch.tensor([[2.0, 3.0], [4.0, 5.0]])}, TypeError, "spatial_shapes must be int64"),
        ({"spatial_shapes": torch.tensor([[2, 3], [4, 6]])}, ValueError, "spatial_shapes"),
        ({"level_start_index": torch.tensor([0, 7])}, ValueError, "level_start_index"),
        ({"level_start_index": torch.tensor([[0, 6]])}, ValueError, "level_start_index must be"),
        ({"sampling_locations": torch.zeros(1, 3, 2, 2, 3)}, ValueError, "sampling_locations must be"),
        ({"sampling_locations": torch.zeros(1, 3, 4, 2, 3, 2)}, ValueError, "sampling_locations must be"),
        ({"attention_weights": torch.zeros(1, 3, 2, 2, 4)}, ValueError, "attention_weights must be"),
    ],
    ids=str,
)
def test_ms_deform_attn_names_what_is_wrong(path: str, change: dict, error: type[Exception], named: str):
    arguments = {
        "value": torch.zeros(1, 26, 2, 4),
        "spatial_shapes": torch.tensor([[2, 3], [4, 5]]),
        "level_start_index": torch.tensor([0, 6]),
        "sampling_locations": torch.zeros(1, 3, 2, 2, 3, 2),
        "attention_weights": torch.zeros(1, 3, 2, 2, 3),
        **change,
    }
    with pytest.raises(error, match=named):
        vss_ops.ms_deform_attn(**arguments)
