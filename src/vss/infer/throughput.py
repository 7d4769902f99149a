"""Frames per second and model FLOP utilisation of the engine: what a GPU makes of a full-size model.

FLOPs are those of the network's matrix products and convolutions (torch's FlopCounterMode, one multiply-add = 2); the
sampling inside DCNv3 and deformable attention is not counted. MFU = FLOPs a frame x frames a second / peak of the card.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from vss import progress
from vss.infer.engine import Engine
from vss.infer.predictions import Job, predictions
from vss.infer.views import parse_tta, views_of
from vss.models.build import build_segmentor
from vss.models.rows import IMAGE_MEAN, IMAGE_STD
from vss.train.config import published_settings, resolve

# Dense bf16 tensor-core peak by a part of the product name, FLOP/s (NVIDIA's data sheets, without sparsity).
_PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}


def throughput(
    *,
    row: str,
    views: Mapping[str, Any],
    device: str,
    precision: str = "bfloat16",
    size: tuple[int, int] = (480, 853),
    frames: int = 16,
) -> dict[str, Any]:
    """Returns {row, device, precision, size, views, frames_per_second, tflops_per_frame, mfu} for random weights.

    Args:
        row: a model row.
        views: keys of `vss.infer.views.Tta`.
        device: a torch device.
        precision: key of `vss.infer.engine.PRECISIONS`.
        size: (height, width) of the frames.
        frames: how many are timed, after as many that are not.

    `mfu` is None on a device whose peak is not known.
    """
    config = published_settings(resolve({"config": row}))
    segmentor = build_segmentor({key: value for key, value in config["model"].items() if key != "auxiliary_head"})
    tta = parse_tta(views)
    engine = Engine(segmentor, tta=tta, mean=IMAGE_MEAN, std=IMAGE_STD, device=device, precision=precision)
    flops = sum(_flops(engine, segmentor, view.padded) for view in views_of(*size, tta, "paper"))
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    job = Job(read=lambda item: image, finish=lambda item, labels, _: None)
    for _ in predictions(engine, range(frames), job):
        pass
    start = time.perf_counter()
    for _ in predictions(engine, range(frames), job):  # labels are on the host when this ends
        pass
    fps = frames / (time.perf_counter() - start)
    name = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else engine.device.type
    peak = next((peak for part, peak in _PEAKS.items() if part in name), None)
    progress.say(f"{row}, {name}, {precision}: {fps:.2f} frames/s, {flops / 1e12:.2f} TFLOPs a frame")
    return {
        "row": row,
        "device": name,
        "precision": precision,
        "size": list(size),
        "views": dict(views),
        "frames_per_second": round(fps, 4),
        "tflops_per_frame": flops / 1e12,
        "mfu": None if peak is None else round(flops * fps / peak, 4),
    }


def _flops(engine: Engine, segmentor: torch.nn.Module, size: tuple[int, int]) -> int:
    """Returns the FLOPs of one view of (height, width)."""
    images = torch.zeros(1, 3, *size, device=engine.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        segmentor.class_logits(images)
    return counter.get_total_flops()
