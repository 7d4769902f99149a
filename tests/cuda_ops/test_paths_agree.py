"""Every path of this machine against pure PyTorch in float64, forward and backward, over drawn problems."""

from __future__ import annotations

import pytest
import torch
import vss_ops
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vss_ops import paths
from vss_ops.geometry import Window

from tests.cuda_ops.problems import Attention, Dcn, assert_close, window, with_gradients

QUIET = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def _pair(low: int, high: int):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def dcn_problems(draw) -> Dcn:
    kernel, dilation = draw(_pair(1, 4)), draw(_pair(1, 3))
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding = draw(_pair(0, 3))
    odd = kernel[0] * kernel[1] % 2 == 1 and kernel[0] * kernel[1] > 1
    window = Window(
        kernel,
        draw(_pair(1, 3)),
        padding,
        dilation,
        draw(st.integers(1, 4)),
        draw(st.sampled_from([1, 2, 3, 4, 7, 8, 12, 16, 33])),
        draw(st.sampled_from([0.5, 1.0, 2.0])),
        odd and draw(st.booleans()),
    )
    sizes = [max(1, e - 2 * p) + draw(st.integers(0, 7)) for e, p in zip(extent, padding, strict=True)]
    reach = draw(st.sampled_from([0.4, 2.0, 50.0]))
    return Dcn(draw(st.integers(0, 2)), *sizes, window, draw(st.booleans()), reach, draw(st.integers(0, 999)))


@st.composite
def attention_problems(draw) -> Attention:
    return Attention(
        N=draw(st.integers(0, 2)),
        Q=draw(st.integers(0, 9)),
        M=draw(st.integers(1, 4)),
        D=draw(st.sampled_from([1, 3, 4, 8, 16, 20, 33])),
        P=draw(st.integers(1, 6)),
        shapes=tuple(draw(st.lists(_pair(0, 6), min_size=1, max_size=4).filter(lambda s: any(h * w for h, w in s)))),
        softmax=draw(st.booleans()),
        spread=draw(st.sampled_from([1.0, 2.0, 40.0])),
        seed=draw(st.integers(0, 999)),
    )


def _agree(problem: Dcn | Attention, device: str, dtype: torch.dtype = torch.float64, tolerance: float = 1e-11) -> None:
    if device == "cuda" and dtype == torch.float64:  # which runs pure PyTorch there
        dtype, tolerance = torch.float32, 1e-5
    tensors = problem.tensors(dtype, device)
    assert paths.path_for(tensors[0].device, dtype) == paths.chosen()
    expected = with_gradients(problem.exact, [t.double().cpu() for t in tensors], dtype)
    assert_close(with_gradients(problem.run, tensors), expected, tolerance)


@QUIET
@given(problem=dcn_problems())
def test_dcnv3(path: str, device: str, problem: Dcn):
    _agree(problem, device)


@QUIET
@given(problem=attention_problems())
def test_ms_deform_attn(path: str, device: str, problem: Attention):
    _agree(problem, device)


@pytest.mark.parametrize("empty", [(0, 0), (0, 2), (3, 0)], ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
def test_empty_levels(path: str, device: str, empty: tuple[int, int], last: bool):
    shapes = ((1, 1), empty) if last else (empty, (1, 1))
    _agree(Attention(1, 3, 1, 2, 2, shapes, spread=2.0), device)


LARGER = [
    Dcn(2, 17, 23, window(group=5, group_channels=32)),
    Dcn(1, 15, 12, window(group=3, group_channels=16, offset_scale=2.0), softmax=True, reach=6.0),
    Attention(2, 60, 8, 32, 4, ((3, 4), (6, 8), (12, 16)), softmax=True),
]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)], ids=str
)
@pytest.mark.parametrize("problem", LARGER, ids=["32 channels", "16 channels", "attention"])
def test_every_dtype(path: str, device: str, problem: Dcn | Attention, dtype: torch.dtype, tolerance: float):
    _agree(problem, device, dtype, tolerance)


@pytest.mark.parametrize("problem", LARGER, ids=["32 channels", "16 channels", "attention"])
def test_half_precision_beside_float32_points(path: str, device: str, problem: Dcn | Attention):
    table, *points = problem.tensors(torch.float32, device)
    tensors = [table.bfloat16(), *points]
    results = with_gradients(problem.run, tensors)
    assert [r.dtype for r in results] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    expected = with_gradients(problem.exact, [t.double().cpu() for t in tensors], torch.bfloat16)
    assert_close(results, expected, 1.6e-2)


@pytest.mark.parametrize("problem", LARGER, ids=["32 channels", "16 channels", "attention"])
def test_strided_tensors_are_taken_as_they_are(path: str, device: str, problem: Dcn | Attention):
    tensors = problem.tensors(torch.float32, device)
    strided = [torch.stack((t, t + 1), -1)[..., 0] for t in tensors]
    assert not any(t.is_contiguous() for t in strided)
    assert_close([problem.run(*strided)], [problem.run(*tensors)], 1e-6)
    last_first = tensors[0].transpose(1, 2).contiguous().transpose(1, 2)
    assert_close([problem.run(last_first, *tensors[1:])], [problem.run(*tensors)], 1e-6)


def test_the_same_for_every_number_of_threads(cpp_kernels: None):
    problem = LARGER[0]
    tensors = problem.tensors(torch.float32)
    threads = torch.get_num_threads()
    with vss_ops.backend("cpp"):
        try:
            torch.set_num_threads(1)
            one = with_gradients(problem.run, tensors)
            torch.set_num_threads(2)
            two = with_gradients(problem.run, tensors)
        finally:
            torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_not_a_number_as_position_samples_nothing(path: str, device: str):
    problem = LARGER[0]
    input, offset, mask = problem.tensors(torch.float32, device)
    far = offset.clone()
    far[0, 3, 3] = 1e9
    offset[0, 3, 3, 0::4] = float("nan")
    offset[0, 3, 3, 1::4] = float("inf")
    offset[0, 3, 3, 2::4] = -float("inf")
    offset[0, 3, 3, 3::4] = float("nan")
    assert_close([problem.run(input, offset, mask)], [problem.run(input, far, mask)], 0.0)
