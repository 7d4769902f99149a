"""Frames per second and model FLOP utilisation of the engine: what a GPU makes of a full-size model.

FLOPs are those that `vss.models.flops` counts: convolutions, matrix products and deformable sampling, one multiply-add
being two. MFU = FLOPs per frame x frames per second / peak of the card.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from vss.configs.resolve import published_settings, resolve
from vss.configs.tta import parse_tta
from vss.core.images import read_image
from vss.core.labels_file import LabelsWriter
from vss.core.log import log
from vss.core.scores_file import ScoresWriter
from vss.infer.engine import Engine
from vss.infer.predictions import FrameCallbacks, predictions
from vss.infer.run import labels_and_scores, labels_only
from vss.infer.stream import WriteBehind
from vss.infer.views import views_of
from vss.models.build import build_on_meta, build_segmentor
from vss.models.flops import count_flops
from vss.models.rows import IMAGE_MEAN, IMAGE_STD

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
    with_scores: bool = False,
) -> dict[str, Any]:
    """Returns {row, device, precision, size, views, with_scores, frames_per_second, tflops_per_frame, mfu}.

    The weights are random. JPEG files are decoded and prediction files written, as in a run.

    Args:
        row: a model row.
        views: keys of `vss.infer.views.Tta`.
        device: a torch device.
        precision: key of `vss.infer.engine.PRECISIONS`.
        size: (height, width) of the frames.
        frames: how many are timed, after as many that are not.
        with_scores: whether class scores are encoded and written as well, as for a member of an ensemble.

    `mfu` is None on a device whose peak is not known.
    """
    config = published_settings(resolve({"config": row}))
    model = {key: value for key, value in config["model"].items() if key != "auxiliary_head"}
    segmentor, counted = build_segmentor(model), build_on_meta(model)
    tta = parse_tta(views)
    engine = Engine(segmentor, tta=tta, mean=IMAGE_MEAN, std=IMAGE_STD, device=device, precision=precision)
    sizes = [view.padded for view in views_of(*size, tta, "paper")]
    flops = sum(count_flops(counted, height=height, width=width) for height, width in sizes)
    with tempfile.TemporaryDirectory() as folder:
        run = functools.partial(_run, engine, Path(folder), size, frames, config["classes"], with_scores)
        run()
        start = time.perf_counter()
        run()
        fps = frames / (time.perf_counter() - start)
    name = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else engine.device.type
    peak = next((peak for part, peak in _PEAKS.items() if part in name), None)
    log(f"{row}, {name}, {precision}: {fps:.2f} frames/s, {flops / 1e12:.2f} TFLOPs per frame")
    return {
        "row": row,
        "device": name,
        "precision": precision,
        "size": list(size),
        "views": dict(views),
        "with_scores": with_scores,
        "frames_per_second": round(fps, 4),
        "tflops_per_frame": flops / 1e12,
        "mfu": None if peak is None else round(flops * fps / peak, 4),
    }


def _run(
    engine: Engine, folder: Path, size: tuple[int, int], frames: int, classes: Sequence[str], with_scores: bool
) -> None:
    """Predicts one JPEG file some times and writes what the infer stage writes."""
    picture = folder / "frame.jpg"
    if not picture.exists():
        cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    callbacks = FrameCallbacks(
        read=lambda number: read_image(picture),
        finish=labels_and_scores if with_scores else labels_only,
        with_probabilities=with_scores,
    )
    header = {"classes": classes, "provenance": {}}
    with (
        LabelsWriter(folder / "0.labels.h5", **header) as labels_writer,
        ScoresWriter(folder / "0.scores.h5", **header) as scores_writer,
        WriteBehind(waiting=4) as writing,
    ):
        for number, (labels, encoded) in predictions(engine, range(frames), callbacks):
            writing.put(labels_writer.write, "video", str(number), labels)
            if with_scores:
                writing.put(scores_writer.write_encoded, "video", str(number), encoded)
