"""The CUDA kernels, run on the CPU by the emulator, against pure PyTorch: what can be known of them without a GPU."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from vss_ops import build, reference
from vss_ops.geometry import Window

from tests.cuda_ops.conftest import compile_emulated
from tests.cuda_ops.problems import Attention, Dcn, assert_close, seed_of, window, with_gradients

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
DTYPES = [
    (torch.float32, torch.float32),
    (torch.float16, torch.float16),
    (torch.float16, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float32),
]

DCN = {
    "vectors": Dcn(2, 9, 11, window(group=3, group_channels=32)),
    "16 channels, softmax": Dcn(1, 10, 9, window(group=2, group_channels=16), softmax=True),
    "odd channels": Dcn(1, 5, 6, window(group=3, group_channels=5), softmax=True),
    "32 channels end inside a group": Dcn(1, 9, 10, window(group=5, group_channels=12), softmax=True),
    "48 channels": Dcn(1, 9, 10, window(group=3, group_channels=48)),
    "one group": Dcn(1, 9, 17, window(group=1, group_channels=8)),
    "stride and dilation": Dcn(2, 13, 11, window(stride=(2, 1), dilation=(1, 2), padding=(0, 2), group_channels=16)),
    "far outside": Dcn(1, 8, 9, window(group_channels=16, offset_scale=2.0), reach=12.0),
    "5x5 without centre": Dcn(1, 9, 9, window((5, 5), padding=2, group_channels=16, remove_center=True), softmax=True),
    "wide kernel, no window": Dcn(1, 12, 12, window((9, 7), padding=4, group=1, group_channels=64)),
    "more lanes than a warp": Dcn(1, 4, 5, window(group=1, group_channels=264)),
    "zero offsets": Dcn(1, 8, 8, window(group_channels=32), reach=0.0),
    "8 channels": Dcn(1, 11, 17, window(group=5, group_channels=8), softmax=True),
    "kernel mirrored": Dcn(1, 9, 8, window(group_channels=16, offset_scale=-1.5), softmax=True),
    "every sample in one place": Dcn(1, 9, 8, window(group_channels=16, offset_scale=0.0)),
    "wide strides": Dcn(1, 40, 37, window(stride=(9, 5), group_channels=16)),
    "empty batch": Dcn(0, 8, 8, window()),
}
ATTENTION = {
    "three levels": Attention(2, 21, 4, 32, 4, ((3, 4), (6, 7), (11, 13)), softmax=True),
    "odd": Attention(1, 37, 3, 5, 3, ((1, 1), (5, 2))),
    "many samples": Attention(1, 3, 2, 8, 40, ((4, 4), (7, 5))),
    "as many samples as fit": Attention(1, 2, 1, 4, 600, ((4, 4), (7, 5), (2, 2)), softmax=True),
    "one head": Attention(2, 70, 1, 16, 2, ((5, 4), (0, 3))),
    "no queries": Attention(1, 0, 2, 8, 4, ((4, 4),)),
}


@pytest.fixture(scope="module")
def kernels(emulator: Path) -> ctypes.CDLL:
    return _loaded(emulator)


def _loaded(emulator: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(emulator))
    for name in ("dcnv3_forward", "dcnv3_backward", "attention_forward", "attention_backward"):
        getattr(loaded, name).restype = ctypes.c_char_p
    loaded.filled_sectors.restype = ctypes.c_double
    return loaded


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _check(message: bytes) -> None:
    assert message == b""


def _compare(problem, head: list, kernels, name: str, tensors: list[Tensor]) -> None:
    table, coordinates, weights = tensors
    types = [TYPES[table.dtype], TYPES[coordinates.dtype]]
    exact = with_gradients(problem.exact, [t.double() for t in tensors], table.dtype)
    out = torch.full(exact[0].shape, float("nan"), dtype=table.dtype)
    forward = getattr(kernels, f"{name}_forward")
    _check(forward(*head, *types, *map(_address, (*tensors, out)), int(problem.softmax)))
    grad = seed_of(out, table.dtype)
    grad_table = torch.zeros(table.shape)
    grad_coordinates, grad_weights = torch.empty_like(coordinates), torch.empty_like(weights)
    backward = getattr(kernels, f"{name}_backward")
    grads = (grad_table, grad_coordinates, grad_weights)
    _check(backward(*head, *types, *map(_address, (grad, *tensors, *grads)), int(problem.softmax)))
    if problem == DCN["zero offsets"]:  # gradients of offsets are one-sided there; both take the right side
        assert not torch.equal(grad_coordinates, torch.zeros_like(grad_coordinates))
    assert_close([out, *grads], exact, TOLERANCE[table.dtype])


def _every_dtype_of_the_first(problems: dict, number: int) -> list:
    """All dtypes for the first problems, which cover the vector and the scalar path; float32 for the others."""
    return [
        pytest.param(problem, dtypes, id=f"{name}-{'-'.join(str(d).removeprefix('torch.') for d in dtypes)}")
        for position, (name, problem) in enumerate(problems.items())
        for dtypes in (DTYPES if position < number else DTYPES[:1])
    ]


def _numbers(window: Window) -> list[int]:
    """Returns the numbers of a window in the order that `dcn` in emulator/entry.cpp reads."""
    pairs = (*window.kernel_size, *window.stride, *window.padding, *window.dilation)
    return [*pairs, window.group, window.group_channels, int(window.remove_center)]


def _run_dcn(kernels: ctypes.CDLL, problem: Dcn, tensors: list[Tensor]) -> None:
    sizes = [*tensors[0].shape[:3], *tensors[1].shape[1:3], *_numbers(problem.window)]
    head = [(ctypes.c_int64 * len(sizes))(*sizes), ctypes.c_double(problem.window.offset_scale)]
    _compare(problem, head, kernels, "dcnv3", tensors)


def _run_attention(kernels: ctypes.CDLL, problem: Attention, tensors: list[Tensor]) -> None:
    sizes = [*tensors[0].shape[:2], problem.Q, problem.M, problem.D, len(problem.shapes), problem.P]
    shapes, starts = problem.levels()
    head = [(ctypes.c_int64 * len(sizes))(*sizes), _address(shapes), _address(starts)]
    _compare(problem, head, kernels, "attention", tensors)


def _run(kernels: ctypes.CDLL, problem: Dcn | Attention, tensors: list[Tensor]) -> None:
    (_run_dcn if isinstance(problem, Dcn) else _run_attention)(kernels, problem, tensors)


@pytest.mark.parametrize(
    ("problem", "dtypes"), _every_dtype_of_the_first(DCN, 3) + _every_dtype_of_the_first(ATTENTION, 2)
)
def test_agrees_with_pure_pytorch(
    kernels: ctypes.CDLL, problem: Dcn | Attention, dtypes: tuple[torch.dtype, torch.dtype]
):
    table, *points = problem.tensors(torch.float64)
    _run(kernels, problem, [table.to(dtypes[0]), *(p.to(dtypes[1]) for p in points)])


@pytest.mark.parametrize("problem", [DCN["vectors"], ATTENTION["three levels"]], ids=["dcnv3", "attention"])
def test_tensors_that_begin_anywhere(kernels: ctypes.CDLL, problem: Dcn | Attention):
    """Vectors must be aligned; where a tensor's memory is not, values go one by one."""
    for dtype in (torch.float32, torch.float16):
        moved = [torch.cat((t.flatten()[:1], t.flatten()))[1:].view_as(t) for t in problem.tensors(dtype)]
        assert all(t.data_ptr() % 16 for t in moved)
        _run(kernels, problem, moved)


@pytest.fixture
def many_processors(kernels: ctypes.CDLL) -> Iterator[None]:
    """A GPU on which few blocks would leave most of it idle."""
    kernels.set_processors(132)
    yield
    kernels.set_processors(0)


def _tile(kernels: ctypes.CDLL, N: int, H: int, W: int, window: Window) -> int:
    """Returns the output pixels of a tile of the window kernel."""
    sizes = [N, H, W, *window.output_size(H, W), *_numbers(window)]
    return kernels.window_tile((ctypes.c_int64 * len(sizes))(*sizes), ctypes.c_double(window.offset_scale))


@pytest.mark.parametrize("name", ["vectors", "16 channels, softmax", "odd channels", "stride and dilation"])
def test_small_tiles(kernels: ctypes.CDLL, many_processors: None, name: str):
    problem = DCN[name]
    assert _tile(kernels, problem.N, problem.H, problem.W, problem.window) == 16
    _run(kernels, problem, problem.tensors(torch.float32))


def test_tiles_follow_the_number_of_blocks(kernels: ctypes.CDLL, many_processors: None):
    """InternImage-H at 896 x 896: 3168 blocks of 8 warps are three rounds of 132 processors."""
    tiles = [_tile(kernels, 1, 896 // s, 896 // s, window(group=c // 32, group_channels=32)) for s, c in STAGES]
    assert tiles == [64, 64, 32, 16]
    kernels.set_processors(0)
    assert _tile(kernels, 1, 28, 28, window(group=80, group_channels=32)) == 64


STAGES = ((4, 320), (8, 640), (16, 1280), (32, 2560))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_additions_fill_the_sectors_they_touch(kernels: ctypes.CDLL, dtype: torch.dtype):
    _assert_sectors_are_filled(kernels, dtype)


def _assert_sectors_are_filled(kernels: ctypes.CDLL, dtype: torch.dtype) -> None:
    problem = ATTENTION["three levels"]
    kernels.watch_additions()
    _run(kernels, problem, problem.tensors(dtype))
    assert kernels.filled_sectors() >= 1.0  # more where rows of a warp meet


@pytest.mark.long
def test_without_wide_atomics(emulator: Path, tmp_path: Path):
    """As on GPUs before compute capability 9, and on later ones where the code is PTX for those."""
    made = compile_emulated("entry.cpp", tmp_path / "kernels.so", "-shared", "-fPIC", "-DVSS_EMULATED_MAJOR=8")
    kernels = _loaded(made)
    for problem in (*DCN.values(), *ATTENTION.values()):
        _run(kernels, problem, problem.tensors(torch.float32))
    for dtype in TYPES:
        _assert_sectors_are_filled(kernels, dtype)


def test_too_many_samples_are_refused_by_name(kernels: ctypes.CDLL):
    problem = Attention(1, 1, 1, 4, 2048, ((4, 4),))
    shapes, starts = problem.levels()
    sizes = (ctypes.c_int64 * 7)(1, 16, 1, 1, 4, 1, 2048)
    tensors = [*problem.tensors(torch.float32), torch.zeros(4)]
    message = kernels.attention_forward(sizes, *map(_address, (shapes, starts)), 0, 0, *map(_address, tensors), 0)
    assert message == b"sampling_locations has too many levels x points for a GPU, at most 2047"
    sizes = [1, 50, 50, 1, 1, *_numbers(window((46, 45), padding=0, group=1, group_channels=4))]
    head = [(ctypes.c_int64 * len(sizes))(*sizes), ctypes.c_double(1.0), 0, 0]
    message = kernels.dcnv3_forward(*head, *map(_address, tensors[1:]), _address(tensors[0]), 0)
    assert message == b"kernel_size has too many points for a GPU, at most 2047"


def test_too_large_tables_are_refused_by_name(kernels: ctypes.CDLL):
    """Refused before anything is read: there is no memory behind these sizes."""
    nothing = [ctypes.c_void_p(0)] * 7
    side = 11585  # pixels, of 520 channels: more than 2^31 vectors of 16 bytes, fewer than 2^31 pixels
    sizes = [1, side, side, 1, 1, *_numbers(window(1, stride=side, padding=0, group=1, group_channels=520))]
    head = [(ctypes.c_int64 * len(sizes))(*sizes), ctypes.c_double(1.0), 1, 1]
    assert kernels.dcnv3_forward(*head, *nothing[:4], 0) == b"input has too many elements per image for a GPU"
    assert kernels.dcnv3_backward(*head, *nothing, 0) == b"input has too many elements per image for a GPU"
    head = [(ctypes.c_int64 * 7)(1, side**2, 1, 1, 520, 1, 1), nothing[0], nothing[0], 1, 1]
    assert kernels.attention_forward(*head, *nothing[:4], 0) == b"value has too many elements per image for a GPU"
    head[0] = (ctypes.c_int64 * 7)(1, 4, 2**33, 4096, 8, 1, 1)
    named = b"sampling_locations has too many queries and heads for one launch on a GPU"
    assert kernels.attention_forward(*head, *nothing[:4], 0) == named


def test_levels_of_absurd_size_read_nothing(kernels: ctypes.CDLL):
    """Products and sums of what the device is given about levels must not wrap around."""
    problem = Attention(1, 5, 1, 4, 2, ((4, 4),))
    value, locations, weights = problem.tensors(torch.float32)
    sizes = (ctypes.c_int64 * 7)(1, 16, 5, 1, 4, 1, 2)
    absurd = ((2**32, 2**32, 16), (4, 4, 2**63 - 1), (2**40, 1, 0), (1, 2**62, 0), (2, 2, -1), (-2, -2, 0))
    for height, width, start in absurd:
        levels = torch.tensor([[height, width]]), torch.tensor([start])
        out = torch.full((1, 5, 4), float("nan"))
        tensors = (*levels, value, locations, weights, out)
        _check(kernels.attention_forward(sizes, *map(_address, levels), 0, 0, *map(_address, tensors[2:]), 0))
        assert not out.any()
        assert not reference.ms_deform_attn(value, *levels, locations, weights).any()


def test_levels_outside_the_table_read_as_zero(kernels: ctypes.CDLL):
    problem = Attention(1, 5, 2, 8, 4, ((4, 4), (5, 5)))
    tensors = problem.tensors(torch.float32)
    sizes = (ctypes.c_int64 * 7)(1, tensors[0].shape[1], 5, 2, 8, 2, 4)
    shapes, starts = problem.levels()
    shapes[1, 0] = 6  # one line more than the table holds
    out = torch.empty(1, 5, 16)
    _check(kernels.attention_forward(sizes, *map(_address, (shapes, starts)), 0, 0, *map(_address, (*tensors, out)), 0))
    assert_close([out], [reference.ms_deform_attn(tensors[0], shapes, starts, *tensors[1:])], 1e-6)
    weights = tensors[2].clone()
    weights[..., 1, :] = 0
    assert_close([out], [problem.exact(tensors[0], tensors[1], weights)], 1e-6)


def test_not_a_number_stays_where_it_is_sampled(kernels: ctypes.CDLL):
    problem = Dcn(1, 8, 8, window(group=1, group_channels=8), reach=0.3)
    tensors = problem.tensors(torch.float32)
    tensors[0][0, 0, 0] = float("nan")
    tensors[1][0, 7, 7, 0] = float("nan")  # a position that is no number samples nothing
    sizes = [1, 8, 8, 8, 8, *_numbers(problem.window)]
    out = torch.empty(1, 8, 8, 8)
    head = [(ctypes.c_int64 * len(sizes))(*sizes), ctypes.c_double(1.0), 0, 0]
    _check(kernels.dcnv3_forward(*head, *map(_address, (*tensors, out)), 0))
    assert out[0, 0, 0].isnan().all()
    assert out[0, 4:, 4:].isfinite().all()


# The value ends where a page begins that must not be touched; the last, empty level starts there.
GUARDED = """
import ctypes, mmap, sys
import torch

memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
libc = ctypes.CDLL(None)
assert libc.mprotect(ctypes.c_void_p(base + mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
positions = mmap.PAGESIZE // 32
shapes, starts = torch.tensor([[1, positions], [0, 3]]), torch.tensor([0, positions])
locations, weights = torch.rand(1, 5, 1, 2, 4, 2), torch.full((1, 5, 1, 2, 4), float("nan"))
out = torch.zeros(1, 5, 8)
sizes = (ctypes.c_int64 * 7)(1, positions, 5, 1, 8, 2, 4)
at = [ctypes.c_void_p(t.data_ptr()) for t in (shapes, starts, locations, weights, out)]
kernels = ctypes.CDLL(sys.argv[1])
kernels.attention_forward(sizes, at[0], at[1], 0, 0, ctypes.c_void_p(base), at[2], at[3], at[4], 0)
print(bool(out.isnan().all()))
"""


def test_weights_that_are_not_numbers_read_nothing_outside_the_table(emulator: Path):
    done = subprocess.run([sys.executable, "-c", GUARDED, str(emulator)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def _races(folder: Path, *flags: str) -> tuple[int, str]:
    """Runs every kernel under ThreadSanitizer; returns the exit status, 66 where there are races, and what it says."""
    sanitizer = ["-fsanitize=thread", "-g"]
    empty = folder / "empty.cpp"
    empty.write_text("int main() {}")
    if subprocess.run([build.cxx_compiler(), *sanitizer, str(empty), "-o", str(folder / "empty")]).returncode:
        pytest.skip("needs a compiler with ThreadSanitizer")
    if subprocess.run([str(folder / "empty")]).returncode:
        pytest.skip("ThreadSanitizer does not run on this machine")
    made = compile_emulated("races.cpp", folder / "races", *sanitizer, *flags)
    options = {"TSAN_OPTIONS": "suppress_equal_addresses=0"}  # every block has its shared memory at the same ones
    done = subprocess.run([str(made)], capture_output=True, text=True, env={**os.environ, **options})
    return done.returncode, done.stdout + done.stderr


@pytest.mark.long
@pytest.mark.usefixtures("emulator")  # skips without a compiler
def test_threads_of_a_block_and_blocks_do_not_race(tmp_path: Path):
    status, printed = _races(tmp_path)
    assert status == 0, printed
    assert printed.splitlines()[-1] == "attention"  # all ran


@pytest.mark.long
@pytest.mark.usefixtures("emulator")  # skips without a compiler
def test_a_barrier_that_orders_nothing_is_found(tmp_path: Path):
    status, printed = _races(tmp_path, "-DVSS_BARRIERS_ORDER_NOTHING")
    assert status == 66
    for kernel in ("forward", "points", "scatter", "window"):
        assert f"{kernel}_kernel" in printed
