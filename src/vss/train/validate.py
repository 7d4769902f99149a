"""A quick mean IoU during training: a few frames of the val split through the inference engine, at ratio 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmseg.registry import HOOKS
from safetensors.torch import save_file

from vss.configs.resolved import ModelConfig, TrainingConfig
from vss.core.confusion import confusion_matrix, mean_iou
from vss.core.images import read_image
from vss.core.index import read_card, read_index
from vss.core.log import log
from vss.infer.load import InferencePlan, build_engine, default_precision, tta_of
from vss.infer.predictions import FrameCallbacks, predictions
from vss.train.checkpoint import bare
from vss.train.hooks import LogHook
from vss.train.whole import save_whole


def validate(
    model: torch.nn.Module, *, index: str, card: str, config: ModelConfig, frames: int, split: str = "val"
) -> dict[str, float]:
    """Scores `frames` frames spread evenly over a split, as `vss infer` and `vss score` would without a tta.

    Args:
        model: a Segmentor; left in the mode it came in.
        index, card: the prepared dataset.
        config: its `test` and `protocol` decide how a frame is fitted.
        frames: at most this many; all of the split where it has fewer.
        split: "train", "val" or "test"; only frames with a mask count.

    Returns:
        miou and miou_mmseg under the two conventions, and pixel_accuracy; 0..1.

    Raises:
        UserError: a file cannot be read, or the model returned inf or nan.
    """
    # A few frames, spread evenly.
    info = read_card(card)
    rows = read_index(index)
    rows = rows[(rows["split"] == split) & (rows["mask"] != "")]
    rows = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, num=min(frames, len(rows)), dtype=int))]

    # The engine of `vss infer`, on the network as it is being trained.
    classes, was_training, device = len(info.classes), model.training, next(model.parameters()).device
    plan = InferencePlan(
        config=config,
        tta=tta_of(config, config.test, config.protocol),
        protocol=config.protocol,
        precision=default_precision(device, config.protocol, config),
        device=device,
        compile=False,
    )

    def count(row: Any, labels: np.ndarray, _: None) -> np.ndarray:
        return confusion_matrix(labels, info.read_mask(row.mask), classes)

    callbacks = FrameCallbacks(
        read=lambda row: read_image(Path(info.root, row.image)),
        finish=count,
        name=lambda row: f"validation: video {row.video!r}, frame {row.frame!r}",
    )
    counts = np.zeros((classes, classes + 1), np.int64)
    # One frame at a time: the optimizer's state has the memory that a batch would take.
    for _, matrix in predictions(build_engine(plan, model), rows.itertuples(), callbacks, batch_frames=1):
        counts += matrix
    model.train(was_training)

    # The scores of `vss score`.
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
        config: of the training.
        best: where the best weights are written.
    """

    priority = "LOW"

    def __init__(self, *, index: str, card: str, config: TrainingConfig, best: str) -> None:
        self._index, self._card, self._config = index, card, config
        self._training, self._best = config.training, Path(best)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Validates when it is time."""
        done = batch_idx + 1
        if done % self._training.val_interval and done != runner.max_iters:
            return
        if is_main_process():
            self._validate(runner, done)
        barrier()

    def _validate(self, runner: Any, done: int) -> None:
        runner.call_hook("before_val_epoch")  # swaps averaged weights in, where there are any
        scores = validate(
            bare(runner.model),
            index=self._index,
            card=self._card,
            config=self._config,
            frames=self._training.val_frames,
        )
        log_hook = next(hook for hook in runner.hooks if isinstance(hook, LogHook))
        log_hook.write({"iter": done, **{f"val/{key}": round(value, 6) for key, value in scores.items()}})
        log(f"validation at iteration {done}: mIoU {100 * scores['miou']:.2f}")
        if self._training.select == "best" and not scores["miou"] <= self._best_so_far():
            tensors = {name: tensor.cpu().contiguous() for name, tensor in bare(runner.model).state_dict().items()}
            save_whole(self._best, lambda aside: save_file(tensors, aside, metadata={"miou": repr(scores["miou"])}))
        runner.call_hook("after_val_epoch")

    def _best_so_far(self) -> float:
        if not self._best.exists():
            return -1.0  # so that the first validation always counts, even one that is NaN
        from safetensors import safe_open

        with safe_open(self._best, framework="pt") as file:
            return float(file.metadata()["miou"])
