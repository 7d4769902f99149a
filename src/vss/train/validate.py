"""A quick mean IoU during training: single scale, no flip, a few frames of the val split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmseg.registry import HOOKS
from safetensors.torch import save_file

from vss.core.confusion import confusion_matrix, mean_iou
from vss.core.files import atomic_path
from vss.core.images import read_image, read_mask
from vss.core.index import read_card, read_index
from vss.core.log import log
from vss.infer.frame_size import fitted_into, rounded_up
from vss.train.checkpoint import bare
from vss.train.hooks import LogHook


def frame_to_input(image: np.ndarray, test: Mapping[str, Any], normalisation: Mapping[str, Any]) -> torch.Tensor:
    """Returns the network's input [1, 3, h, w] of a frame [H, W, 3] uint8 RGB, fitted as `test` says, at ratio 1."""
    size = image.shape[:2] if test["scale"] is None else fitted_into(image.shape[:2], test["scale"])
    height, width = rounded_up(size, test["size_divisor"])
    if (height, width) != image.shape[:2]:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    normalised = (image.astype(np.float32) - normalisation["mean"]) / normalisation["std"]
    return torch.from_numpy(normalised.astype(np.float32)).permute(2, 0, 1)[None].contiguous()


@torch.no_grad()
def validate(
    model: torch.nn.Module, *, index: str, card: str, config: Mapping[str, Any], frames: int, split: str = "val"
) -> dict[str, float]:
    """Scores `frames` frames spread evenly over a split.

    Args:
        model: a Segmentor; left in the mode it came in.
        config: as `published_settings` returns it.

    Returns:
        miou and miou_mmseg under the two conventions, and pixel_accuracy; 0..1.
    """
    info = read_card(card)
    rows = read_index(index)
    rows = rows[(rows["split"] == split) & (rows["mask"] != "")]
    rows = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, num=min(frames, len(rows)), dtype=int))]
    device, num_classes = next(model.parameters()).device, len(config["classes"])
    precision, was_training = config["training"]["precision"], model.training
    autocast = torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")
    model.eval()
    counts = np.zeros((num_classes, num_classes + 1), np.int64)
    for row in rows.itertuples():
        image = read_image(Path(info.root, row.image))
        truth = read_mask(Path(info.root, row.mask), info.label_map)
        with autocast:  # as it is trained, and as it will be tested
            logits = model.class_logits(frame_to_input(image, config["test"], config["normalisation"]).to(device))
        resized = F.interpolate(logits.float(), size=truth.shape, mode="bilinear", align_corners=False)
        labels = resized.argmax(1)[0].to(torch.uint8).cpu().numpy()
        counts += confusion_matrix(labels, truth, num_classes)
    model.train(was_training)
    hits = float(np.diagonal(counts).sum())
    return {
        "miou": mean_iou(counts, "vspw"),
        "miou_mmseg": mean_iou(counts, "mmseg"),
        "pixel_accuracy": hits / max(int(counts.sum()), 1),
    }


@HOOKS.register_module()
class ValidationHook(Hook):
    """Validates every `val_interval` iterations and at the end; keeps the best weights where `select` is "best".

    Args:
        index, card: dataset.
        config: as `published_settings` returns it.
        best: where the best weights are written.
    """

    priority = "LOW"

    def __init__(self, *, index: str, card: str, config: dict[str, Any], best: str) -> None:
        self._data = dict(index=index, card=card, config=config)
        self._training, self._best = config["training"], Path(best)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Validates when it is time."""
        done = batch_idx + 1
        if done % self._training["val_interval"] and done != runner.max_iters:
            return
        if is_main_process():
            self._validate(runner, done)
        barrier()

    def _validate(self, runner: Any, done: int) -> None:
        runner.call_hook("before_val_epoch")  # swaps averaged weights in, where there are any
        scores = validate(bare(runner.model), **self._data, frames=self._training["val_frames"])
        log_hook = next(hook for hook in runner.hooks if isinstance(hook, LogHook))
        log_hook.write({"iter": done, **{f"val/{key}": round(value, 6) for key, value in scores.items()}})
        log(f"validation at iteration {done}: mIoU {100 * scores['miou']:.2f}")
        if self._training["select"] == "best" and not scores["miou"] <= self._best_so_far():
            tensors = {name: tensor.cpu().contiguous() for name, tensor in bare(runner.model).state_dict().items()}
            with atomic_path(self._best) as aside:
                save_file(tensors, aside, metadata={"miou": repr(scores["miou"])})
        runner.call_hook("after_val_epoch")

    def _best_so_far(self) -> float:
        if not self._best.exists():
            return -1.0  # so that the first validation always counts, even one that is NaN
        from safetensors import safe_open

        with safe_open(self._best, framework="pt") as file:
            return float(file.metadata()["miou"])
