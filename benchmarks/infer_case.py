"""One side of one case of the inference benchmark, in a process of its own so that its peak memory is its own.

`ours` is this project's engine, `peer` is MMSegmentation's `SegTTAModel` behind its own `TestTimeAug` pipeline and a
DataLoader, both on the same weights, images and views.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vss.configs.resolved import read_model_config
from vss.core.files import read_json
from vss.core.images import read_image
from vss.infer.engine import Engine
from vss.infer.load import load_engine, load_segmentor, read_plan
from vss.infer.predictions import FrameCallbacks, predictions

SIDES = ("ours", "peer")


Run = Callable[[Sequence[Path]], list[np.ndarray]]  # images -> label maps [H, W] uint8


def load_ours(model: Path, views: dict[str, Any]) -> Run:
    """Returns what runs our engine over images."""
    engine = our_engine(model, views)
    callbacks = FrameCallbacks(read=read_image, finish=lambda path, labels, _: labels)
    return lambda images: [labels for _, labels in predictions(engine, images, callbacks)]


def our_engine(model: Path, views: dict[str, Any]) -> Engine:
    """Returns the engine of a benchmark's model in float32 on the CPU."""
    return load_engine(read_plan(model / "config.json", {"tta": views}, "cpu"), model / "weights.safetensors")


def load_peer(model: Path, views: dict[str, Any]) -> Run:
    """Returns what runs MMSegmentation's own test-time augmentation loop over images."""
    from mmcv.transforms import Compose
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import DefaultScope
    from mmseg.models import SegTTAModel
    from torch.utils.data import DataLoader

    with DefaultScope.overwrite_default_scope("mmseg"):
        pipeline = Compose(peer_pipeline(views))
    segmentor = load_segmentor(
        read_model_config(read_json(model / "config.json"), where=str(model)), model / "weights.safetensors"
    )
    tta_model = SegTTAModel(segmentor).eval()

    def run(images: Sequence[Path]) -> list[np.ndarray]:
        loader = DataLoader(_Images(images, pipeline), num_workers=1, collate_fn=pseudo_collate)
        labels = []
        with torch.no_grad():
            for data in loader:
                (sample,) = tta_model.test_step(data)
                labels.append(sample.pred_sem_seg.data.squeeze(0).numpy().astype(np.uint8))
        return labels

    return run


def peer_pipeline(views: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns MMSegmentation's test-time augmentation pipeline for the same views (its configs' `tta_pipeline`)."""
    flips = [{"type": "RandomFlip", "prob": 0.0, "direction": "horizontal"}]
    if views.get("flip"):
        flips.append({"type": "RandomFlip", "prob": 1.0, "direction": "horizontal"})
    resizes = [{"type": "Resize", "scale_factor": ratio, "keep_ratio": True} for ratio in views["img_ratios"]]
    meta_keys = ("img_path", "ori_shape", "img_shape", "pad_shape", "scale_factor", "flip", "flip_direction")
    pack = {"type": "PackSegInputs", "meta_keys": meta_keys}
    return [{"type": "LoadImageFromFile"}, {"type": "TestTimeAug", "transforms": [resizes, flips, [pack]]}]


class _Images(torch.utils.data.Dataset):
    def __init__(self, images: Sequence[Path], pipeline: Any) -> None:
        self._images, self._pipeline = images, pipeline

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Any:
        return self._pipeline({"img_path": str(self._images[index])})


def measure(side: str, model: Path, images: Sequence[Path], views: dict[str, Any], out: Path) -> None:
    """Runs one side and writes its label maps [N, H, W], seconds per frame and peak MB to `out` (npz).

    One frame is run before the clock starts: it pays for what only the first one costs.
    """
    run = {"ours": load_ours, "peer": load_peer}[side](model, views)
    run(images[:1])
    start = time.perf_counter()
    labels = run(images)
    seconds = (time.perf_counter() - start) / len(images)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    np.savez_compressed(out, labels=np.stack(labels), seconds=seconds, peak=peak)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `measure` from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--views", type=json.loads, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    measure(options.side, options.model, sorted(options.images.iterdir()), options.views, options.out)


if __name__ == "__main__":
    main()
