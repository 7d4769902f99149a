"""`make gpu-check`: everything that only a GPU can show, in under 8 minutes; writes one JSON and one Markdown table.

Builds cuda_ops, runs its tests and its self-check, compares and times the operators (benchmarks/ops.py: pure PyTorch,
and the public DCNv3 where `import DCNv3` works; here also PyPI's `deformops`, which needs Python 3.12), replays one in
and the public DCNv3 where `import DCNv3` works; here PyPI's `deformops` too, which needs Python 3.12), replays one in
per second and peak memory against the estimate; then SAM's mask generator. Weights are random: speed and memory do not
depend on them, but for the number of SAM's masks.

A part that fails is an entry with its error, and the exit status is 1; the other parts run. `--rehearse` runs the same
parts on the CPU with the smallest models, so that a mistake shows before a GPU is paid for.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vss_ops
from vss_ops.geometry import Window

from benchmarks import ops as bench_ops
from benchmarks.throughput import throughput
from vss.configs.resolve import published_settings, resolve
from vss.configs.resolved import read_training_config
from vss.core.files import atomic_path
from vss.core.log import log
from vss.models.build import build_segmentor
from vss.refine.sam import SamProposer, SamShape, build_sam
from vss.train.estimate import estimate_training

REPOSITORY = Path(__file__).resolve().parents[1]
SINGLE = {"img_ratios": [1.0], "flip": False}
TWELVE = {"img_ratios": [0.5, 0.75, 1.0, 1.25, 1.5, 1.75], "flip": True}
_TOLERANCE = 4e-3  # of the largest value, in half precision


@dataclass(frozen=True)
class Scale:
    """The sizes of a check: of the GPU's, or of its rehearsal on a CPU.

    Attributes:
        row: the model row. size: (height, width) of a frame. frames: how many are timed.
        precision: of inference and training. steps: training steps that are timed.
        sam: sizes of the image encoder. points_per_side: of SAM's grid of prompts.
        ops_only: names of the layers that benchmarks.ops times; None for all. seconds: its time cap per measurement.
    """

    device: str
    row: str
    size: tuple[int, int]
    frames: int
    precision: str
    dtypes: tuple[str, ...]
    steps: int
    sam: SamShape
    points_per_side: int
    ops_only: tuple[str, ...] | None
    seconds: float
    views: tuple[tuple[str, dict[str, Any]], ...]


SAM_H = SamShape(1280, 32, 16, (7, 15, 23, 31), grid=64, patch_size=16, window_size=14, out_chans=256)
GPU = Scale(
    device="cuda",
    row="mask2former_internimage-h_vspw",
    size=(480, 853),
    frames=16,
    precision="bfloat16",
    dtypes=("float16", "bfloat16"),
    steps=5,
    sam=SAM_H,
    points_per_side=32,
    ops_only=None,
    seconds=0.3,
    views=(("single view", SINGLE), ("12 views", TWELVE)),
)
REHEARSAL = Scale(
    device="cpu",
    row="mask2former_internimage-nano-h_vspw",
    size=(64, 96),
    frames=1,
    precision="float32",
    dtypes=("float32",),
    steps=1,
    sam=SamShape(32, 2, 2, (1,), grid=4, patch_size=16, window_size=2, out_chans=256),
    points_per_side=2,
    ops_only=("stage 4 480x853",),
    seconds=0.0,
    views=(("single view", SINGLE), ("2 views", {"img_ratios": [1.0], "flip": True})),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts in order; returns 0, or 1 where one failed or a result differs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with the smallest models")
    parser.add_argument("--minutes", type=float, default=8.0, help="no part starts after this time (default 8)")
    parser.add_argument("--out", type=Path, default=Path("results/bench/gpu_check.json"))
    options = parser.parse_args(arguments)
    if not options.rehearse and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --rehearse runs on the CPU")
    scale = REHEARSAL if options.rehearse else GPU
    parts = [*_parts(scale, options.out.parent)]
    start, entries = time.monotonic(), []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name, run in parts:
        entries.append(_entry(name, run, late=time.monotonic() - start > 60 * options.minutes))
        _write(entries, scale, options.out)  # after every part: what was measured survives a stop
    print(options.out.with_suffix(".md").read_text(), end="")
    return 0 if all(entry["ok"] for entry in entries) else 1


def _parts(scale: Scale, folder: Path) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yields the name of every part and what runs it; the cheap and decisive ones come first."""
    if scale.device == "cuda":
        build = [sys.executable, "-m", "vss_ops.build", "--force", "--require", "cpu", "cuda"]
        yield "build cuda_ops", functools.partial(_command, build, 240)
        yield (
            "tests of cuda_ops",
            functools.partial(_command, [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/cuda_ops"], 150),
        )
    yield "self-check", functools.partial(_self_check, scale.device)
    for dtype in scale.dtypes:
        yield f"operators {dtype}", functools.partial(_operators, scale, dtype, folder / f"ops_{dtype}.json")
    yield "deformops", functools.partial(_deformops, scale)
    yield "CUDA graph", functools.partial(_cuda_graph, scale)
    for name, views in scale.views:
        yield f"inference {name}", functools.partial(_inference, scale, views)
    yield "training step", functools.partial(_training_step, scale)
    yield "SAM generator", functools.partial(_sam, scale)


def _entry(name: str, run: Callable[[], dict[str, Any]], *, late: bool) -> dict[str, Any]:
    """Runs one part and returns {part, ok, seconds, result}; a failure is its result, and others go on."""
    log(f"gpu-check: {name}")
    start = time.monotonic()
    try:
        result = {"skipped": "no time left"} if late else run()
        ok = result.pop("ok", True) and not late
    except Exception as error:  # whatever a driver, a compiler or a peer raises
        result, ok = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}, False
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {"part": name, "ok": bool(ok), "seconds": round(time.monotonic() - start, 1), "result": result}


def _write(entries: list[dict[str, Any]], scale: Scale, out: Path) -> None:
    """Writes the JSON, and next to it the table."""
    device = (
        torch.cuda.get_device_name() if scale.device == "cuda" else "CPU (rehearsal: no figure here means anything)"
    )
    with atomic_path(out) as path:
        path.write_text(json.dumps({"device": device, "torch": torch.__version__, "parts": entries}, indent=1) + "\n")
    lines = [f"{device}, torch {torch.__version__}", "", "| part | ok | seconds | result |", "|---|---|---|---|"]
    for entry in entries:
        result = ", ".join(f"{key} {value}" for key, value in entry["result"].items()).replace("|", "/")
        lines.append(f"| {entry['part']} | {'yes' if entry['ok'] else 'NO'} | {entry['seconds']} | {result} |")
    with atomic_path(out.with_suffix(".md")) as path:
        path.write_text("\n".join(lines) + "\n")


def _command(command: list[str], seconds: float) -> dict[str, Any]:
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=seconds, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines() or [""]
    return {"ok": done.returncode == 0, "last line": lines[-1]}


def _self_check(device: str) -> dict[str, Any]:
    vss_ops.self_check(device)
    return {"path": vss_ops.status()[device]["path"]}


def _operators(scale: Scale, dtype: str, out: Path) -> dict[str, Any]:
    """Times every layer of InternImage-H and of its pixel decoder, forward and backward, against the floor."""
    arguments = ["--device", scale.device, "--dtype", dtype, "--seconds", str(scale.seconds), "--out", str(out)]
    if scale.ops_only is not None:
        arguments += ["--only", *scale.ops_only]
    status = bench_ops.main(arguments)
    rows = json.loads(out.read_text())
    result: dict[str, Any] = {"ok": status == 0, "rows": len(rows), "file": out.name}
    for direction in ("forward", "backward"):
        ours = [row for row in rows if f" {direction} " in row["case"]]
        result[f"{direction}, times the floor"] = round(max(row["ours"] / row["floor"] for row in ours), 2)
        for peer in sorted({row["case"].rpartition(" vs ")[2] for row in ours}):
            ratios = [row["ratio"] for row in ours if row["case"].endswith(f" vs {peer}")]
            result[f"{direction}, {peer} / ours"] = f"{min(ratios)} to {max(ratios)}"
    return result


def _deformops(scale: Scale) -> dict[str, Any]:
    """Compares and times multi-scale deformable attention with PyPI's `deformops`, where it can be imported."""
    try:
        from deformops.backends.cuda.msda import msda_cuda
    except ImportError as error:
        return {"not compared": str(error)}
    shapes = torch.tensor([[15, 27], [30, 54], [60, 107]], device="cuda")
    starts = shapes.prod(1).cumsum(0) - shapes.prod(1)
    S = int(shapes.prod(1).sum())
    generator = torch.Generator("cuda").manual_seed(0)
    random = functools.partial(torch.rand, device="cuda", generator=generator)
    value, locations = random(1, S, 8, 32).half(), random(1, S, 8, 3, 4, 2).half()
    weights = random(1, S, 8, 12).softmax(-1).view(1, S, 8, 3, 4).half()
    calls = {
        "ours": lambda: vss_ops.ms_deform_attn(value, shapes, starts, locations, weights),
        "deformops": lambda: msda_cuda(value, shapes, starts, locations, weights),
    }
    ours, theirs = (call().float().flatten() for call in calls.values())
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    result: dict[str, Any] = {"ok": difference <= _TOLERANCE, "largest difference": f"{difference:.1e}"}
    for name, call in calls.items():
        seconds = bench_ops._time(call, torch.device("cuda"), scale.seconds, time.perf_counter)
        result[f"{name}, ms"] = round(1e3 * seconds, 3)
    return result


def _cuda_graph(scale: Scale) -> dict[str, Any]:
    """Replays DCNv3 in a CUDA graph and compares with the call outside it."""
    window = Window((3, 3), (1, 1), (1, 1), (1, 1), 4, 16, 1.0, False)
    tensors = [torch.randn(1, 20, 30, channels, device=scale.device) for channels in (64, 72, 36)]
    call = functools.partial(vss_ops.dcnv3, *tensors, **window._asdict(), softmax=True)
    expected = call()
    if scale.device != "cuda":
        return {"not captured": "no CUDA device"}
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # warm up outside the capture
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    captured.zero_()
    graph.replay()
    torch.cuda.synchronize()
    return {"ok": torch.equal(captured, expected), "equal": torch.equal(captured, expected)}


def _inference(scale: Scale, views: dict[str, Any]) -> dict[str, Any]:
    frames = max(1, scale.frames // (4 if views["flip"] else 1))
    measured = throughput(
        row=scale.row, views=views, device=scale.device, precision=scale.precision, size=scale.size, frames=frames
    )
    return {key: measured[key] for key in ("row", "precision", "frames_per_second", "tflops_per_frame", "mfu")}


def _training_step(scale: Scale) -> dict[str, Any]:
    """Times steps of forward, backward and AdamW on one crop, and compares peak memory with the estimate."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    height, width = scale.size
    options = {"config": scale.row, "crop_size": [height, width], "cfg_options": {"precision": scale.precision}}
    config = published_settings(resolve(options))
    expected = estimate_training(read_training_config(config), images=1, gpus=int(scale.device == "cuda"))
    model = build_segmentor(config["model"]).to(scale.device).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()  # one image has no statistics where a feature map is one pixel
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    images = torch.rand(1, 3, height, width, device=scale.device)
    labels = torch.randint(0, 8, (1, height, width), device=scale.device)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo={"img_shape": (height, width)})]
    autocast = torch.autocast(scale.device, torch.bfloat16, enabled=scale.precision == "bfloat16")

    def step() -> None:
        with autocast:
            loss, _ = model.parse_losses(model.loss(images, samples))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    if scale.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step()
    if scale.device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(scale.steps):
        step()
    if scale.device == "cuda":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / scale.steps
    peak = torch.cuda.max_memory_allocated() / 2**30 if scale.device == "cuda" else None
    return {
        "images per second": round(1 / seconds, 3),
        "peak GiB": None if peak is None else round(peak, 2),
        "estimated GiB": round(expected.total / 2**30, 2),
    }


def _sam(scale: Scale) -> dict[str, Any]:
    """Times SAM's mask generator; random weights make masks that its thresholds mostly drop, so these are off."""
    torch.manual_seed(0)
    sam = build_sam(scale.sam).eval().to(scale.device)
    thresholds = {"pred_iou_thresh": -1e9, "stability_score_thresh": -1.0}
    proposer = SamProposer(sam, points_per_side=scale.points_per_side, **thresholds)
    image = np.random.default_rng(0).integers(0, 256, (*scale.size, 3), dtype=np.uint8)
    start = time.perf_counter()
    proposer.propose(image)
    return {"seconds per frame": round(time.perf_counter() - start, 2), "points": scale.points_per_side**2}


if __name__ == "__main__":
    raise SystemExit(main())
