"""Times the compiled kernels against pure PyTorch: `python -m benchmarks.ops`.

Every layer shape of InternImage-H (DCNv3) and of the Mask2Former pixel decoders (multi-scale deformable attention), at
480x853 and 896x896, forward and backward, batch 1, called as the models call them under autocast: input and value in
--dtype, offsets, locations and logits in float32, the softmax inside. Offsets are normal with a standard deviation of
one pixel, as in a trained network. The floor is what the tensors alone cost at the memory bandwidth measured by a copy:
every input read once, every output written once, each in its dtype. On a GPU the second-level cache is emptied before
every run, and the public CUDA op is timed too where `import DCNv3` works (cuda_ops/README.md says how to build it);
in those rows ours too gets what that op takes: all tensors in --dtype, weights that are softmaxed already.

Prints a table and writes a JSON list of {case, ours, peer, unit, ratio, equal, floor}; ratio = peer / ours, equal tells
whether output and gradients agree within rounding.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from vss_ops import ops, paths
from vss_ops.geometry import Window

SIZES = ("480x853", "896x896")
INTERN_IMAGE_H = ((4, 320, 10), (8, 640, 20), (16, 1280, 40), (32, 2560, 80))  # stride, channels, groups; 32 a group
PIXEL_DECODERS = ((256, 8), (1024, 32))  # channels, heads; 3 levels of strides 8, 16, 32; 4 points
TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
# Clock cycles a GPU is kept busy before a run, about 2 ms: Python has queued the kernels by then and is not timed.
HOLD = 4_000_000
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """One layer: its name, its float tensors (made when requested, the last are logits) and the models' call."""

    name: str
    tensors: Callable[[torch.device, torch.dtype], list[Tensor]]
    run: Callable[..., Tensor]
    window: Window | None = None  # of DCNv3


def main(arguments: Sequence[str] | None = None) -> int:
    """Times the cases requested; returns 0, or 1 where a result differs."""
    options = _options(arguments)
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    torch.set_num_threads(options.threads)
    timer = functools.partial(_time, device=device, seconds=options.seconds, clock=CLOCKS[options.clock])
    bandwidth = _bandwidth(device, timer)
    print(_where(device, options.threads, options.clock, bandwidth), flush=True)
    print(f"{'case':58} {'ours ms':>9} {'peer ms':>9} {'ratio':>6} {'floor ms':>9}  equal", flush=True)
    rows = []
    for case in _cases(options.sizes):
        if options.only and not any(word in case.name for word in options.only):
            continue
        for row in _rows(case, device, dtype, timer, bandwidth):
            rows.append(row)
            print(
                f"{row['case']:58} {row['ours']:9.3f} {row['peer']:9.3f} {row['ratio']:6.1f} {row['floor']:9.3f}  "
                f"{row['equal']}",
                flush=True,
            )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    aside = options.out.with_name(f".{options.out.name}.{os.getpid()}")
    aside.write_text(json.dumps(rows, indent=1) + "\n")
    os.replace(aside, options.out)
    return 0 if all(row["equal"] for row in rows) else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ops", description=__doc__.split("\n\n")[0])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="bfloat16" if device == "cuda" else "float32", choices=DTYPES)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    clock = "wall time, or processor time of all threads for a machine that is busy with other work"
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help=f"on a CPU: {clock}")
    parser.add_argument("--sizes", nargs="+", default=SIZES, choices=SIZES)
    parser.add_argument("--only", nargs="+", help="only cases whose name contains one of these words")
    parser.add_argument("--seconds", type=float, default=2.0, help="time cap of one measurement (at least 3 runs)")
    parser.add_argument("--out", type=Path, default=Path("results/bench/ops.json"))
    return parser.parse_args(arguments)


def _cases(sizes: Sequence[str]) -> Iterator[Case]:
    for size in sizes:
        height, width = map(int, size.split("x"))
        for stage, (stride, channels, group) in enumerate(INTERN_IMAGE_H, 1):
            yield _dcnv3_case(f"dcnv3 H stage {stage} {size}", _at(height, stride), _at(width, stride), channels, group)
        levels = [(_at(height, stride), _at(width, stride)) for stride in (32, 16, 8)]
        for channels, heads in PIXEL_DECODERS:
            yield _attention_case(f"ms_deform_attn {channels}-d {size}", levels, heads, channels // heads)


def _at(size: int, stride: int) -> int:
    """Size after convolutions of stride 2, kernel 3, padding 1."""
    while stride > 1:
        size, stride = (size + 1) // 2, stride // 2
    return size


def _dcnv3_case(name: str, H: int, W: int, channels: int, group: int) -> Case:
    window = Window((3, 3), (1, 1), (1, 1), (1, 1), group, channels // group, 1.0, False)

    def tensors(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        generator = torch.Generator(device).manual_seed(0)
        sizes = (channels, group * window.points * 2, group * window.points)
        input, offset, mask = (
            torch.randn(1, H, W, c, device=device, generator=generator, dtype=torch.float32) for c in sizes
        )
        return [input.to(dtype), offset, mask]

    return Case(name, tensors, lambda *t: ops.dcnv3(*t, **window._asdict(), softmax=True), window)


def _attention_case(name: str, levels: list[tuple[int, int]], heads: int, head_channels: int) -> Case:
    shapes = torch.tensor(levels)
    starts = shapes.prod(1).cumsum(0) - shapes.prod(1)
    on: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def tensors(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        on[device] = shapes.to(device), starts.to(device)
        generator = torch.Generator(device).manual_seed(0)
        # the queries are the pixels of all levels; they look at all levels, about two pixels around themselves
        centres = [
            torch.stack(torch.meshgrid((torch.arange(w) + 0.5) / w, (torch.arange(h) + 0.5) / h, indexing="xy"), -1)
            for h, w in levels
        ]
        centres = torch.cat([c.flatten(0, 1) for c in centres]).to(device)
        queries, count = centres.shape[0], len(levels)
        drawn = torch.randn(1, queries, heads, count, 4, 2, device=device, generator=generator) * 2
        locations = centres.view(1, queries, 1, 1, 1, 2) + drawn / on[device][0].flip(1).view(count, 1, 2)
        weights = torch.randn(1, queries, heads, count, 4, device=device, generator=generator)
        value = torch.randn(1, queries, heads, head_channels, device=device, generator=generator)
        return [value.to(dtype), locations, weights]

    return Case(name, tensors, lambda v, p, w: ops.ms_deform_attn(v, *on[v.device], p, w, softmax=True))


def _rows(case: Case, device: torch.device, dtype: torch.dtype, timer: Callable, bandwidth: float) -> Iterator[dict]:
    tensors = case.tensors(device, dtype)
    dtype_name = str(dtype).removeprefix("torch.")

    def rows(ours: Measured, theirs: Measured, tensors: list[Tensor], peer: str) -> Iterator[dict]:
        equal = _equal(ours.results, theirs.results, dtype)
        inputs, output = _bytes(*tensors), _bytes(ours.results[0])
        for direction, moved in (("forward", inputs + output), ("backward", 2 * inputs + output)):
            times = getattr(ours, direction), getattr(theirs, direction)
            yield _row(f"{case.name} {direction} {dtype_name} vs {peer}", *times, moved / bandwidth, equal)

    compiled = paths.COMPILED[device.type]
    measured = [_measured(case.run, tensors, choice, timer) for choice in (compiled, "reference")]
    yield from rows(*measured, tensors, "PyTorch")
    if device.type == "cuda" and case.window is not None and (public := _public_op(dtype)):
        window, tensors = case.window, in_the_public_form(tensors, case.window)
        ours = _measured(lambda *t: ops.dcnv3(*t, **window._asdict()), tensors, compiled, timer)
        yield from rows(ours, _measured_public(public, tensors, window, timer), tensors, "DCNv3")


class Measured(NamedTuple):
    """Seconds of a forward and of a backward pass, and the output and the gradients of the inputs."""

    forward: float
    backward: float
    results: list[Tensor]


def _measured(run: Callable[..., Tensor], tensors: list[Tensor], choice: str, timer: Callable) -> Measured:
    leaves = [t.detach().requires_grad_() for t in tensors]

    def forward() -> Tensor:
        with torch.no_grad():
            return run(*leaves)

    with paths.backend(choice):
        out = run(*leaves)
        grad = _gradient_of(out)

        def backward() -> tuple[Tensor, ...]:
            return torch.autograd.grad(out, leaves, grad, retain_graph=True)

        return Measured(timer(forward), timer(backward), [out.detach(), *backward()])


def _measured_public(public, tensors: list[Tensor], window: Window, timer: Callable) -> Measured:
    # images at once, the last number, comes after the gradient in its backward
    pairs = (*window.kernel_size, *window.stride, *window.padding, *window.dilation)
    numbers = (*pairs, window.group, window.group_channels, window.offset_scale)

    def forward() -> Tensor:
        return public.dcnv3_forward(*tensors, *numbers, 256)

    out = forward()
    grad = _gradient_of(out)

    def backward() -> Sequence[Tensor]:
        return public.dcnv3_backward(*tensors, *numbers, grad, 256)

    return Measured(timer(forward), timer(backward), [out, *backward()])


def in_the_public_form(tensors: list[Tensor], window: Window) -> list[Tensor]:
    """Returns input, offset and mask as the public op takes them: of one dtype, the mask softmaxed."""
    input, offset, mask = tensors
    mask = mask.unflatten(3, (window.group, -1)).softmax(-1).flatten(3)
    return [input, offset.to(input.dtype), mask.to(input.dtype)]


def _gradient_of(out: Tensor) -> Tensor:
    return torch.randn(out.shape, generator=torch.Generator(out.device).manual_seed(1), device=out.device).to(out.dtype)


def _bytes(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _row(name: str, ours: float, peer: float, floor: float, equal: bool) -> dict:
    return {
        "case": name,
        "ours": round(ours * 1e3, 4),
        "peer": round(peer * 1e3, 4),
        "unit": "ms",
        "ratio": round(peer / ours, 2),
        "equal": equal,
        "floor": round(floor * 1e3, 4),
    }


@functools.cache
def _public_op(dtype: torch.dtype):
    """The public CUDA op, built outside this tree, where it can be imported; it has no bfloat16."""
    if dtype == torch.bfloat16:
        print("(the public DCNv3 op has no bfloat16: --dtype float16 times it too)", flush=True)
        return None
    try:
        return importlib.import_module("DCNv3")
    except ImportError as error:
        print(f"(the public DCNv3 op is not timed: {error})", flush=True)
        return None


def _time(run: Callable, device: torch.device, seconds: float, clock: Callable[[], float]) -> float:
    """Returns the time in seconds of the fastest run, the one least disturbed: 3 runs and more, until the cap."""
    run()
    times: list[float] = []
    # 256 MB, above any cache; read, not written: the run would have to write changed lines back
    sweep = torch.zeros(64 * 2**20, device=device) if device.type == "cuda" else None
    while len(times) < 3 or (sum(times) < seconds and len(times) < 100):
        if sweep is None:
            start = clock()
            run()
            times.append(clock() - start)
        else:
            sweep.sum()
            torch.cuda._sleep(HOLD)
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
            run()
            events[1].record()
            torch.cuda.synchronize()
            times.append(events[0].elapsed_time(events[1]) / 1e3)
    return min(times)


def _equal(ours: list[Tensor], theirs: list[Tensor], dtype: torch.dtype) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(float((a - b).abs().max()) <= TOLERANCE[dtype] * float(b.abs().max()) for a, b in pairs)


def _bandwidth(device: torch.device, timer: Callable) -> float:
    """Returns the bytes per second that a copy moves, reads and writes counted."""
    source = torch.ones((2**30 if device.type == "cuda" else 2**27) // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / timer(lambda: target.copy_(source))


def _where(device: torch.device, threads: int, clock: str, bandwidth: float) -> str:
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{_cpu_name()}, {threads} threads, {clock} time"
    )
    date = datetime.date.today().isoformat()
    return f"vss_ops: {date}, {name}, torch {torch.__version__}, copy {bandwidth / 1e9:.1f} GB/s"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    raise SystemExit(main())
