"""A teacher that is an average of the student: it labels unlabelled frames while the student is trained on them.

Mean Teacher, arXiv 1703.01780; with hard labels above a probability as in U2PL (arXiv 2203.03884), whose rate of the
average this is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.model import MomentumAnnealingEMA
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample

from vss.core.errors import UserError
from vss.train.checkpoint import bare

_MOMENTUM = 0.01  # share of the newest weights; while there are fewer than 100, all count alike


@HOOKS.register_module()
class TeacherHook(Hook):
    """Gives the samples of a batch that have `for_teacher` the labels of an average of the student's weights.

    A pixel is labelled where the teacher's probability is at least the sample's `least`; the others are ignored. The
    teacher is part of the checkpoints, and draws no random numbers: a resumed training equals an uninterrupted one.

    Args:
        at_once: images that the teacher is shown at once, at most.
    """

    def __init__(self, *, at_once: int) -> None:
        self._at_once = at_once

    def before_run(self, runner: Any) -> None:
        """Begins with the student's own weights."""
        self._average = MomentumAnnealingEMA(bare(runner.model), momentum=_MOMENTUM, gamma=1, update_buffers=True)
        self._average.module.eval().requires_grad_(False)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Adds the teacher."""
        checkpoint["teacher"] = self._average.state_dict()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Takes over the teacher."""
        self._average.load_state_dict(checkpoint["teacher"])

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Labels the samples without labels.

        Raises:
            UserError: the teacher's predictions are not finite.
        """
        samples = [sample for sample in data_batch["data_samples"] if "for_teacher" in sample]
        head = self._average.module.decode_head
        if hasattr(head, "anneal"):  # a query's mask counts for the teacher as for the student
            head.anneal(batch_idx / max(runner.max_iters - 1, 1))
        with torch.no_grad(), runner.optim_wrapper.optim_context(runner.model):
            for start in range(0, len(samples), self._at_once):
                self._label(samples[start : start + self._at_once])

    def _label(self, samples: Sequence[SegDataSample]) -> None:
        model = self._average.module
        images = [sample.for_teacher for sample in samples]
        # In training mode the preprocessor pads all to the size of the crops.
        inputs = model.data_preprocessor({"inputs": images, "data_samples": [SegDataSample() for _ in images]}, True)
        logits = model.class_logits(inputs["inputs"])
        resized = F.interpolate(logits, inputs["inputs"].shape[-2:], mode="bilinear", align_corners=model.align_corners)
        sure, labels = model.probabilities(resized).max(1)  # [N, H, W]
        if not sure.isfinite().all():
            raise UserError("the teacher (ema) predicts inf or nan; try precision float32 or a lower learning rate")
        for sample, image, probability, label in zip(samples, images, sure, labels, strict=True):
            height, width = image.shape[-2:]
            label = torch.where(probability >= sample.least, label, model.decode_head.ignore_index)[:height, :width]
            sample.gt_sem_seg.data = label[None].to(sample.gt_sem_seg.data.device)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Takes the student's new weights into the average."""
        self._average.update_parameters(bare(runner.model))
